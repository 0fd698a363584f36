//! What a directory holds at one moment, and what differs at another.

use std::collections::BTreeMap;
use std::fs::{self};
use std::io::{self};
use std::path::{Path, PathBuf};

use super::{EntryKind, Facts};
use crate::proof::sha256_hex;

/// One entry of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What `lstat` said.
    pub facts: Facts,
    /// SHA-256 of a regular file's bytes; `None` for other kinds and for what cannot be read.
    pub sha256: Option<String>,
}

/// A directory and all below it, at one moment, by relative path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot(pub BTreeMap<PathBuf, Entry>);

/// How two snapshots differ in one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only in the later one.
    Added(PathBuf, Entry),
    /// Only in the earlier one.
    Removed(PathBuf, Entry),
    /// In both and not the same: before, after.
    Changed(PathBuf, Entry, Entry),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Added(name, entry) => write!(f, "added {}: {}", name.display(), entry.facts),
            Self::Removed(name, entry) => write!(f, "removed {}: {}", name.display(), entry.facts),
            Self::Changed(name, before, after) => {
                let content = if before.sha256 == after.sha256 { "same bytes" } else { "other bytes" };
                write!(f, "changed {}: {} → {}, {content}", name.display(), before.facts, after.facts)
            }
        }
    }
}

impl Snapshot {
    /// Takes a snapshot; what disappears meanwhile is left out. The directory itself is the entry of the empty path.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut open = vec![PathBuf::new()];
        while let Some(name) = open.pop() {
            let path = directory.join(&name);
            let facts = match Facts::of(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !entries.is_empty() => continue,
                facts => facts?,
            };
            if facts.kind == EntryKind::Directory {
                match fs::read_dir(&path) {
                    Ok(below) => open.extend(below.flatten().map(|entry| name.join(entry.file_name()))),
                    Err(_) if !entries.is_empty() => {}
                    Err(error) => return Err(error),
                }
            }
            let sha256 = (facts.kind == EntryKind::File)
                .then(|| fs::read(&path).ok().map(|b| sha256_hex(&b)))
                .flatten();
            entries.insert(name, Entry { facts, sha256 });
        }
        Ok(Self(entries))
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.0.get(Path::new(name))
    }

    /// What is different in `later`. Link counts and lengths of directories are left out: they follow from the entries.
    pub fn diff(&self, later: &Self) -> Vec<Difference> {
        let same = |a: &Entry, b: &Entry| {
            let plain = |entry: &Entry| {
                let mut entry = entry.clone();
                if entry.facts.kind == EntryKind::Directory {
                    (entry.facts.nlink, entry.facts.len) = (0, 0);
                }
                entry
            };
            plain(a) == plain(b)
        };
        let mut differences = Vec::new();
        for (name, before) in &self.0 {
            match later.0.get(name) {
                None => differences.push(Difference::Removed(name.clone(), before.clone())),
                Some(after) if !same(before, after) => {
                    differences.push(Difference::Changed(name.clone(), before.clone(), after.clone()));
                }
                Some(_) => {}
            }
        }
        let added = later.0.iter().filter(|(name, _)| !self.0.contains_key(*name));
        differences.extend(added.map(|(name, entry)| Difference::Added(name.clone(), entry.clone())));
        differences
    }
}
