//! `config.toml`: `locald` lists what another TOML library and the independent subject find in it, and its edits change the
//! list and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::LazyLock;

use local_daemon::StateDir;
use local_daemon::perimeter::Origin;
use local_daemon::state_directory::CONFIG;
use local_daemon_subject::readers;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::Seed;
use crate::allowlist::{Allowlist, add, listed, remove};

static DIRECTORY: LazyLock<(TempDir, StateDir)> = LazyLock::new(|| {
    let folder = TempDir::new().expect("there is a temporary directory");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("it is ours");
    let directory = StateDir::at(folder.path());
    (folder, directory)
});

/// The first line is an origin to add and to remove, the others are the file.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (origin, file) = text.split_once('\n').unwrap_or(("", text));
    let directory = &DIRECTORY.1;
    directory.replace(CONFIG, file.as_bytes()).expect("the directory is there");
    let now = || {
        let now = Allowlist::new(directory.clone(), Vec::new(), |_| ()).now();
        now.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let expected = file.parse::<Table>().ok().and_then(|table| Some((entries(&table)?, rest(table))));
    let Some((before, others)) = expected else {
        assert!(listed(directory).is_err() && now().is_empty());
        return;
    };
    if before.iter().any(Value::is_table) {
        return; // `[[origins.allow]]` and `allow = [{}]` are one to this library and two to the other.
    }
    let found = listed(directory).expect("the file can be read");
    assert_eq!(found.len(), before.len());
    let mut admitted: Vec<String> = texts(&before).filter(|text| readers::is_origin(text)).collect();
    admitted.sort();
    admitted.dedup();
    assert_eq!(now(), admitted, "PER-40");

    let Ok(origin) = origin.parse::<Origin>() else {
        return;
    };
    let text = Value::from(origin.as_str());
    let is_new = !before.contains(&text);
    assert_eq!(add(directory, &origin).expect("it can be written"), is_new);
    let with: Vec<Value> = before.iter().cloned().chain(is_new.then(|| text.clone())).collect();
    check(file, &with, &others);
    assert!(now().contains(&origin.to_string()), "PER-41");
    assert!(remove(directory, origin.as_str()).expect("it can be written"));
    let without: Vec<Value> = before.iter().filter(|entry| **entry != text).cloned().collect();
    check(file, &without, &others);
    assert!(!now().contains(&origin.to_string()), "PER-41");
}

/// The file has these entries, everything else as before, and every comment that stood on a line of its own.
fn check(before: &str, expected: &[Value], others: &Table) {
    let after = fs::read_to_string(DIRECTORY.1.file(CONFIG)).expect("it is there");
    let table: Table = after.parse().expect("what was written is TOML");
    assert_eq!(entries(&table).as_deref(), Some(expected));
    assert_eq!(&rest(table), others);
    let comments = before.lines().filter(|line| line.starts_with('#') && !line.contains('\r'));
    for comment in comments {
        assert!(after.contains(comment), "{comment:?} is gone");
    }
}

/// `origins.allow`; `None` where it is something else than a list.
fn entries(table: &Table) -> Option<Vec<Value>> {
    match table.get("origins").map(Value::as_table) {
        None => Some(Vec::new()),
        Some(origins) => match origins?.get("allow") {
            None => Some(Vec::new()),
            Some(allow) => allow.as_array().cloned(),
        },
    }
}

/// All but `origins.allow`.
fn rest(mut table: Table) -> Table {
    if let Some(origins) = table.get_mut("origins").and_then(Value::as_table_mut) {
        origins.remove("allow");
        if origins.is_empty() {
            table.remove("origins");
        }
    }
    table
}

fn texts(entries: &[Value]) -> impl Iterator<Item = String> {
    entries.iter().filter_map(Value::as_str).map(str::to_owned)
}

/// Files as people write them.
pub fn seeds() -> Vec<Seed> {
    [
        ("none", "https://a.example\n"),
        ("chapter", "https://b.example\n[origins]\nallow = [\"https://app.example\", \"http://127.0.0.1:5173\"]\n"),
        (
            "commented",
            "https://a.example\n# mine\nidle = 3 # seconds\n\n[origins]\n# the app\nallow = [\n  \"https://a.example\", # one\n]\n\n\
             [[endpoints]]\nname = \"db\"\n",
        ),
        ("inline", "https://a.example\norigins = { allow = [\"*\", 7, 'https://b.example'] }\n"),
        ("dotted", "https://a.example\norigins.allow = []\n"),
        ("no-list", "https://a.example\n[origins]\nallow = \"https://a.example\"\n"),
        ("no-table", "https://a.example\norigins = 1\n"),
        ("no-toml", "https://a.example\n[origins"),
    ]
    .map(|(name, text)| (name.to_owned(), text.into()))
    .into()
}
