//! Compares `Cargo.lock` with a snapshot of the `RustSec` advisories, `ci/advisories.txt`; run by `ci/advisories`.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::SystemTime;
use std::{env, fs};

use cargo_metadata::semver::{Version, VersionReq};
use serde::Deserialize;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SNAPSHOT: &str = "ci/advisories.txt";
const LOCK: &str = "Cargo.lock";
const HEAD: &str = "\
# The vulnerabilities and unsound interfaces that RustSec lists, without withdrawn advisories: the id, the crate, and the
# versions that are not affected. ci/advisories compares Cargo.lock with it, and says how to renew it.
";

fn main() -> Result<ExitCode> {
    let mut args = env::args().skip(1);
    match (args.next().as_deref(), args.next(), args.next()) {
        (None, ..) => {}
        (Some("--renew"), Some(database), None) => fs::write(SNAPSHOT, snapshot_of(Path::new(&database))?)?,
        _ => return Err("usage: ci/advisories [--renew DATABASE]".into()),
    }
    let snapshot = fs::read_to_string(SNAPSHOT)?;
    let (date, advisories) = parse(&snapshot)?;
    let lock: Lock = toml::from_str(&fs::read_to_string(LOCK)?)?;
    let affected = affected(&lock, &advisories);
    for (package, advisory) in &affected {
        let Advisory { id, unaffected, .. } = advisory;
        println!("{} {} is affected by {id}; not affected: {unaffected:?}", package.name, package.version);
    }
    let taken = humantime::parse_rfc3339(&format!("{date}T00:00:00Z"))?;
    let days = SystemTime::now().duration_since(taken).unwrap_or_default().as_secs() / 86_400;
    println!(
        "{} of {} packages are affected by {} advisories of {date}, {days} days ago",
        affected.len(),
        lock.package.len(),
        advisories.len()
    );
    Ok(ExitCode::from(u8::from(!affected.is_empty())))
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: Version,
}

#[derive(Debug)]
struct Advisory {
    id: String,
    package: String,
    unaffected: Vec<VersionReq>,
}

/// Returns the date of a snapshot, and its advisories.
fn parse(snapshot: &str) -> Result<(&str, Vec<Advisory>)> {
    let mut lines = snapshot.lines().filter(|line| !line.starts_with('#'));
    let date = lines.next().ok_or("the snapshot has no date")?;
    let advisory = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().ok_or_else(|| format!("not an advisory: {line}"));
        let (id, package, unaffected) = (word()?.to_owned(), word()?.to_owned(), word()?);
        let unaffected = unaffected.split(" || ").filter(|text| *text != "-").map(str::parse);
        Ok(Advisory {
            id,
            package,
            unaffected: unaffected.collect::<std::result::Result<_, _>>()?,
        })
    };
    Ok((date, lines.map(advisory).collect::<Result<_>>()?))
}

/// Returns the packages that are affected. A pre-release counts as affected unless a range names it.
fn affected<'a>(lock: &'a Lock, advisories: &'a [Advisory]) -> Vec<(&'a Package, &'a Advisory)> {
    let pairs = lock.package.iter().flat_map(|package| advisories.iter().map(move |it| (package, it)));
    pairs
        .filter(|(package, advisory)| {
            let is_unaffected = |range: &VersionReq| range.matches(&package.version);
            package.name == advisory.package && !advisory.unaffected.iter().any(is_unaffected)
        })
        .collect()
}

/// The front matter of an advisory in the database.
#[derive(Deserialize)]
struct Entry {
    advisory: Meta,
    #[serde(default)]
    versions: Versions,
}

#[derive(Deserialize)]
struct Meta {
    id: String,
    package: String,
    informational: Option<String>,
    withdrawn: Option<toml::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Versions {
    patched: Vec<String>,
    unaffected: Vec<String>,
}

/// Returns the snapshot of a clone of the database.
fn snapshot_of(database: &Path) -> Result<String> {
    let date = Command::new("git").arg("-C").arg(database).args(["log", "-1", "--format=%cs"]).output()?;
    let date = String::from_utf8(date.stdout)?.trim().to_owned();
    let mut lines = Vec::new();
    for package in fs::read_dir(database.join("crates"))? {
        for file in fs::read_dir(package?.path())? {
            let text = fs::read_to_string(file?.path())?;
            let front = text.strip_prefix("```toml\n").and_then(|text| text.split("\n```").next());
            let Entry { advisory, versions } =
                toml::from_str(front.ok_or("an advisory does not begin with its TOML")?)?;
            let is_vulnerability = advisory.informational.is_none_or(|kind| kind == "unsound");
            if is_vulnerability && advisory.withdrawn.is_none() {
                let mut unaffected = [versions.patched, versions.unaffected].concat().join(" || ");
                if unaffected.is_empty() {
                    unaffected.push('-');
                }
                lines.push(format!("{} {} {unaffected}\n", advisory.id, advisory.package));
            }
        }
    }
    lines.sort();
    Ok(format!("{HEAD}{date}\n{}", lines.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affected_version_is_found() {
        let snapshot =
            "# A comment\n2026-08-21\nRUSTSEC-1 a >= 1.2.3, < 2.0.0 || ^0.9 || >=2.1.0\nRUSTSEC-2 b -\n";
        let (date, advisories) = parse(snapshot).unwrap();
        assert_eq!((date, advisories.len()), ("2026-08-21", 2));
        let count = |name: &str, version: &str| {
            let package = Package { name: name.to_owned(), version: version.parse().unwrap() };
            affected(&Lock { package: vec![package] }, &advisories).len()
        };
        for (name, version, expected) in [
            ("a", "1.2.2", 1),
            ("a", "1.2.3", 0),
            ("a", "2.0.5", 1),
            ("a", "2.1.0", 0),
            ("a", "0.9.7", 0),
            ("a", "1.2.3-rc.1", 1),
            ("b", "9.0.0", 1),
            ("c", "0.1.0", 0),
        ] {
            assert_eq!(count(name, version), expected, "{name} {version}");
        }
    }

    #[test]
    fn the_snapshot_has_advisories_of_well_known_crates() {
        let text = fs::read_to_string(SNAPSHOT).unwrap();
        let (_, advisories) = parse(&text).unwrap();
        assert!(advisories.len() > 500 && advisories.iter().any(|it| it.package == "tokio"));
    }
}
