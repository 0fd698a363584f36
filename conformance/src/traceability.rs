//! From a requirement to the code that meets it and to the cases that judge it.
//!
//! One walk serves `explain`, `list --requirements` and the test that fails on every dangling end.

use std::path::{Path, PathBuf};

use local_daemon_spec::{Catalogue, Requirement};
use local_daemon_subject::faults::Fault;
use serde::Serialize;

use crate::case::Case;

/// A place in the code that names a requirement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Citation {
    /// The id as it stands there.
    pub id: String,
    /// Relative to the repository.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
}

/// A requirement with everything that refers to it.
#[derive(Debug, Clone)]
pub struct Trace<'a> {
    /// The requirement.
    pub requirement: &'a Requirement,
    /// Where the code names it.
    pub citations: Vec<&'a Citation>,
    /// Which cases judge it.
    pub cases: Vec<&'a Case>,
}

impl Trace<'_> {
    /// Whether it binds now and can be observed: then a MUST needs a case.
    pub fn is_judged(&self) -> bool {
        !self.requirement.planned && self.requirement.untestable.is_none()
    }

    /// One word for where it stands: `planned`, `untestable`, `judged` or `open`.
    pub fn status(&self) -> &'static str {
        if self.requirement.planned {
            "planned"
        } else if self.requirement.untestable.is_some() {
            "untestable"
        } else if self.cases.is_empty() {
            "open"
        } else {
            "judged"
        }
    }
}

/// The folders whose code meets requirements, relative to the repository.
const CODE: [&str; 3] = ["proto/src", "src", "reference-daemon/src"];

/// The group of cases that replay a trace of the model, each across the chapters.
pub const SCHEDULES: &str = "schedule";

/// The repository that this suite was built in, if its code is there.
pub fn repository() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    CODE.iter().all(|folder| root.join(folder).is_dir()).then(|| root.to_owned())
}

/// Every id in the code of a repository, in the order of files and lines.
pub fn citations(catalogue: &Catalogue, repository: &Path) -> std::io::Result<Vec<Citation>> {
    let prefixes: Vec<&str> = catalogue.chapters().iter().map(|chapter| chapter.prefix.as_str()).collect();
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = CODE.iter().map(|folder| repository.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "js") {
                let text = std::fs::read_to_string(&path)?;
                let file = path.strip_prefix(repository).unwrap_or(&path);
                for (number, line) in text.lines().enumerate() {
                    let cited = ids(line, &prefixes);
                    found.extend(cited.map(|id| Citation { id, file: file.to_owned(), line: number + 1 }));
                }
            }
        }
    }
    found.sort_by(|a, b| (&a.file, a.line, &a.id).cmp(&(&b.file, b.line, &b.id)));
    Ok(found)
}

/// The bare ids in a line: a known prefix, a hyphen, a number.
fn ids<'a>(line: &'a str, prefixes: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    words.filter_map(move |word| {
        let (prefix, number) = word.split_once('-')?;
        let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        (numbered && prefixes.contains(&prefix)).then(|| word.to_owned())
    })
}

/// Every requirement with its citations and cases, in the order of the specification.
pub fn traces<'a>(catalogue: &'a Catalogue, citations: &'a [Citation], cases: &[&'a Case]) -> Vec<Trace<'a>> {
    let trace = |requirement: &'a Requirement| Trace {
        requirement,
        citations: citations.iter().filter(|citation| citation.id == requirement.id).collect(),
        cases: cases
            .iter()
            .copied()
            .filter(|case| case.requirements.contains(&requirement.id.as_str()))
            .collect(),
    };
    catalogue.requirements().map(trace).collect()
}

/// Every end that leads nowhere, a line each; empty where the chain is whole.
pub fn dangling(
    catalogue: &Catalogue,
    citations: &[Citation],
    cases: &[&Case],
    faults: &[&Fault],
) -> Vec<String> {
    let mut ends = Vec::new();
    for trace in traces(catalogue, citations, cases) {
        let requirement = trace.requirement;
        if !requirement.level.is_must() || requirement.planned {
            continue;
        }
        if trace.is_judged() && trace.cases.is_empty() {
            ends.push(format!("{}: a {} without a case", requirement.id, requirement.level.key_word()));
        }
        if trace.is_judged() && !faults.iter().any(|fault| fault.requirement() == requirement.id) {
            ends.push(format!("{}: a {} that no fault breaks", requirement.id, requirement.level.key_word()));
        }
        if trace.citations.is_empty() {
            ends.push(format!("{}: a {} that no code cites", requirement.id, requirement.level.key_word()));
        }
    }
    for citation in citations.iter().filter(|citation| catalogue.get(&citation.id).is_none()) {
        ends.push(format!(
            "{}:{}: cites {}, which is not there",
            citation.file.display(),
            citation.line,
            citation.id
        ));
    }
    let mut names = std::collections::BTreeSet::new();
    for case in cases {
        if !names.insert(case.name) {
            ends.push(format!("{}: two cases of this name", case.name));
        }
        for id in case.requirements.iter().filter(|id| catalogue.get(id).is_none()) {
            ends.push(format!("{}: covers {id}, which is not there", case.name));
        }
        match case.requirements.first().and_then(|id| catalogue.get(id)) {
            Some(first)
                if first.chapter != case.chapter()
                    && case.chapter() != SCHEDULES
                    && case.engine.is_none() =>
            {
                ends.push(format!(
                    "{}: its first requirement, {}, is of {}",
                    case.name, first.id, first.chapter
                ));
            }
            None if case.requirements.is_empty() => ends.push(format!("{}: covers nothing", case.name)),
            _ => {}
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::ids;

    #[test]
    fn an_id_is_a_known_prefix_and_a_number_as_a_word_of_its_own() {
        let found = |line| ids(line, &["PUB", "HS"]).collect::<Vec<_>>();
        assert_eq!(found("// PUB-3, (HS-12) [`PUB-10`]: x"), ["PUB-3", "HS-12", "PUB-10"]);
        assert!(found("SHA-256 PUB-x PUB- XPUB-3 PUB-3a MY_PUB-3 utf-8").is_empty());
    }
}
