//! The cases, in a module per chapter. Those of the client role are in `client`, and those that replay traces of the formal
//! model in `schedule`.
//!
//! The attribute [`case`](crate::case::case) declares a function as a case. The rest follows from the module: chapter, role
//! and, below `browser/engines`, one case per engine, because no engine stands for another.

// The documentation of a case is printed as plain text.
#![allow(clippy::doc_markdown)]

mod browser;
mod client;
mod convergence;
mod credential;
mod gate;
mod handshake;
mod notes;
mod perimeter;
mod publish;
mod registration;
mod schedule;
mod state_directory;
mod streams;

use std::sync::LazyLock;

use local_daemon_harness::browser::Kind;
use local_daemon_spec::{Profile, Role, catalogue};

use crate::case::{Case, Declaration};

/// Returns every case, in the order of the specification's chapters and of their requirements; within a chapter the daemon's
/// before the client's, and those without a browser before those in engines. The schedules are last.
pub fn all() -> impl Iterator<Item = &'static Case> {
    static ALL: LazyLock<Vec<Case>> = LazyLock::new(|| {
        let mut declared: Vec<Declared> = inventory::iter::<Declaration>().map(Declared::of).collect();
        declared.sort_by_cached_key(Declared::order);
        declared.iter().flat_map(Declared::cases).collect()
    });
    ALL.iter()
}

/// Returns the case of this exact name.
pub fn get(name: &str) -> Option<&'static Case> {
    all().find(|case| case.name == name)
}

/// A declared case, and what its module determines.
struct Declared {
    declaration: &'static Declaration,
    /// The first half of the name: the slug of a chapter, or `schedule`.
    group: String,
    role: Role,
    in_each_engine: bool,
}

impl Declared {
    fn of(declaration: &'static Declaration) -> Self {
        let path = declaration.module.strip_prefix(concat!(module_path!(), "::"));
        let path = path.expect("cases are declared in modules below this one");
        let (role, path) = match path.strip_prefix("client::") {
            Some(path) => (Role::Client, path),
            None => (Role::Daemon, path),
        };
        let (group, path) = path.split_once("::").unwrap_or((path, ""));
        let group = group.replace('_', "-");
        Self { declaration, group, role, in_each_engine: path.starts_with("engines") }
    }

    fn order(&self) -> impl Ord + use<> {
        let chapters = catalogue().chapters();
        let chapter = chapters.iter().position(|chapter| chapter.slug == self.group);
        let first = self.declaration.case.requirements.first();
        let requirement = catalogue().requirements().position(|requirement| Some(&&*requirement.id) == first);
        let kind = (self.role == Role::Client, self.in_each_engine);
        (chapter.unwrap_or(usize::MAX), kind, requirement, self.declaration.module, self.declaration.line)
    }

    /// Returns the case under its full name, or one per engine.
    fn cases(&self) -> Vec<Case> {
        let name = format!("{}/{}", self.group, self.declaration.case.name);
        let case = match self.role {
            Role::Client => self.declaration.case.client(),
            _ => self.declaration.case.profile(self.profile()),
        };
        if self.in_each_engine {
            let of = |kind: Kind| Case { name: format!("{name}/{kind}").leak(), ..case.engine(kind) };
            Kind::ALL.map(of).to_vec()
        } else {
            vec![Case { name: name.leak(), ..case }]
        }
    }

    /// Returns the profile of a case of the daemon role: `browser` in that chapter, or else its own, or else that of the
    /// first requirement.
    fn profile(&self) -> Profile {
        let case = &self.declaration.case;
        match case.requirements.first().and_then(|id| catalogue().get(id)) {
            _ if self.group == "browser" => Profile::Browser,
            Some(first) if case.profile == Profile::Core => first.profile,
            _ => case.profile,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Linking could lose a declaration, and no other test would miss a case that shares its requirements with others.
    #[test]
    fn every_declaration_in_the_sources_is_found() {
        let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cases")];
        let mut declared = 0;
        while let Some(path) = open.pop() {
            let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
            open.extend(folders);
            for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "rs")) {
                let text = fs::read_to_string(file).unwrap();
                declared += text.lines().filter(|line| line.starts_with("#[case(")).count();
            }
        }
        assert_eq!(inventory::iter::<Declaration>().count(), declared);
        assert!(declared > 300, "{declared}");
    }
}
