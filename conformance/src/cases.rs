//! The cases, in a module per chapter. Those of the client role are in `client`, and those that replay traces of the formal
//! model in `schedule`.
//!
//! The attribute [`case`](crate::case::case) declares a function as a case. Its module says the rest: chapter, role, and
//! for the modules in `browser/engines` that the case is asked in each engine, because no engine stands for another.

// The documentation of a case is printed as plain text.
#![allow(clippy::doc_markdown)]

mod browser;
mod client;
mod convergence;
mod credential;
mod gate;
mod handshake;
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

/// Every case, in the order of the specification's chapters; within one, the daemon's before the client's, and those
/// without a browser before those in engines. The schedules are last.
pub fn all() -> impl Iterator<Item = &'static Case> {
    static ALL: LazyLock<Vec<Case>> = LazyLock::new(|| {
        let mut places: Vec<Place> = inventory::iter::<Declaration>().map(Place::of).collect();
        places.sort_by_key(Place::order);
        places.iter().flat_map(Place::cases).collect()
    });
    ALL.iter()
}

/// Returns the case of this exact name.
pub fn get(name: &str) -> Option<&'static Case> {
    all().find(|case| case.name == name)
}

/// Where a case is declared, and what follows from it.
struct Place {
    declaration: &'static Declaration,
    /// The first half of the name: the slug of a chapter, or `schedule`.
    group: String,
    role: Role,
    in_each_engine: bool,
}

impl Place {
    fn of(declaration: &'static Declaration) -> Self {
        let path = declaration.module.strip_prefix(concat!(module_path!(), "::")).unwrap_or_default();
        let (role, path) = match path.strip_prefix("client::") {
            Some(path) => (Role::Client, path),
            None => (Role::Daemon, path),
        };
        let (group, path) = path.split_once("::").unwrap_or((path, ""));
        Self {
            declaration,
            group: group.replace('_', "-"),
            role,
            in_each_engine: path.starts_with("engines"),
        }
    }

    fn order(&self) -> impl Ord + use<> {
        let chapters = catalogue().chapters();
        let chapter = chapters.iter().position(|chapter| chapter.slug == self.group);
        let first = self.declaration.case.requirements.first();
        let requirement = catalogue().requirements().position(|requirement| Some(&&*requirement.id) == first);
        let kind = (self.role == Role::Client, self.in_each_engine);
        (chapter.unwrap_or(usize::MAX), kind, requirement, self.declaration.module, self.declaration.line)
    }

    /// The case under its whole name, or one case per engine.
    fn cases(&self) -> Vec<Case> {
        let name = format!("{}/{}", self.group, self.declaration.case.name);
        let case = self.of_its_profile();
        if self.in_each_engine {
            let of = |kind: Kind| Case { name: format!("{name}/{kind}").leak(), ..case.engine(kind) };
            Kind::ALL.map(of).to_vec()
        } else {
            vec![Case { name: name.leak(), ..case }]
        }
    }

    fn of_its_profile(&self) -> Case {
        let case = self.declaration.case;
        if self.role == Role::Client {
            return case.client();
        }
        let first = case.requirements.first().and_then(|id| catalogue().get(id));
        match first {
            _ if case.profile != Profile::Core => case,
            _ if self.group == "browser" => case.profile(Profile::Browser),
            Some(requirement) => case.profile(requirement.profile),
            None => case,
        }
    }
}
