//! Faults: each breaks exactly one requirement, in the way a plausible programmer would.
//!
//! The daemon's lie by chapter, the client's in one list. The subject asks [`broken`] at the place where one shows; what it
//! takes many lines to do wrong is one of the misdeeds.

mod browser;
mod client;
mod convergence;
mod credential;
mod gate;
mod handshake;
mod perimeter;
mod publish;
mod registration;
mod state_directory;
mod streams;

use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

/// One way of breaking one requirement.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// `ID.shape`: the requirement and the way, `PUB-3.truncate`.
    pub name: &'static str,
    /// What the programmer did.
    pub about: &'static str,
}

impl Fault {
    /// The requirement that it breaks.
    pub fn requirement(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(id, _)| id)
    }
}

const fn fault(name: &'static str, about: &'static str) -> Fault {
    Fault { name, about }
}

/// The daemon's, in the order of the specification's chapters.
const DAEMON: &[&[Fault]] = &[
    state_directory::FAULTS,
    registration::FAULTS,
    credential::FAULTS,
    publish::FAULTS,
    convergence::FAULTS,
    handshake::FAULTS,
    gate::FAULTS,
    perimeter::FAULTS,
    streams::FAULTS,
    browser::FAULTS,
];

/// Every fault, in the order of the specification's chapters, the daemon's before the client's.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    DAEMON.iter().copied().flatten().chain(client::FAULTS)
}

/// The fault that this process has.
static CHOSEN: OnceLock<&'static str> = OnceLock::new();

/// Makes this process have the named fault, for good. Gives back whether there is one of this name.
pub fn choose(name: &str) -> bool {
    all().find(|fault| fault.name == name).is_some_and(|fault| CHOSEN.set(fault.name).is_ok())
}

/// Whether this process has the named fault.
pub fn broken(name: &str) -> bool {
    CHOSEN.get().is_some_and(|chosen| *chosen == name)
}

/// What a busy machine puts between two steps of a faulty daemon.
pub(super) fn window() {
    sleep(Duration::from_millis(20));
}

/// The names that somebody may have meant: those of the same requirement, else of the same chapter.
pub fn near(name: &str) -> Vec<&'static str> {
    let begins = |with: &str| all().map(|fault| fault.name).filter(|other| other.starts_with(with)).collect();
    let requirement = name.split('.').next().unwrap_or(name);
    let chapter = requirement.split('-').next().unwrap_or(requirement);
    let near: Vec<_> = begins(&format!("{requirement}."));
    if near.is_empty() { begins(&format!("{chapter}-")) } else { near }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use local_daemon_spec::{Role, catalogue};

    use super::*;

    /// Every text in quotation marks that has the form of a fault's name, in the sources that are no list of faults.
    fn names_in_the_sources() -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut open = vec![Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).to_owned()];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                // The lists themselves.
                open.retain(|path| path.file_stem().is_none_or(|name| name != "fault"));
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let named = |text: &&str| {
                let id = text.split('.').next().unwrap_or_default();
                text.contains('.') && catalogue().get(id).is_some()
            };
            names.extend(text.split('"').filter(named).map(str::to_owned));
        }
        names
    }

    #[test]
    fn names_are_unique_and_of_requirements_that_bind() {
        let daemon = DAEMON.iter().copied().flatten().map(|fault| (fault, Role::Daemon));
        let all = daemon.chain(client::FAULTS.iter().map(|fault| (fault, Role::Client)));
        let mut names = BTreeSet::new();
        for (fault, role) in all {
            assert!(names.insert(fault.name), "{} is there twice", fault.name);
            assert!(!fault.about.is_empty(), "{}", fault.name);
            let shape = fault.name.split_once('.').unwrap_or_else(|| panic!("{} has no shape", fault.name)).1;
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(!shape.is_empty() && shape.bytes().all(plain), "{}", fault.name);
            let requirement = catalogue().get(fault.requirement());
            let binds = requirement.is_some_and(|requirement| [role, Role::Both].contains(&requirement.role));
            assert!(binds, "{} binds no {role:?}", fault.name);
        }
    }

    #[test]
    fn each_fault_is_asked_for_and_each_that_is_asked_for_is_listed() {
        let listed: BTreeSet<String> = all().map(|fault| fault.name.to_owned()).collect();
        let asked = names_in_the_sources();
        let in_vain: Vec<_> = listed.symmetric_difference(&asked).collect();
        assert!(in_vain.is_empty(), "listed or asked for, and not both: {in_vain:?}");
    }

    #[test]
    fn near_names_are_of_the_same_requirement_or_chapter() {
        assert!(near("PUB-3.no-such").iter().all(|name| name.starts_with("PUB-3.")));
        assert!(near("PUB-99").len() > 5);
    }
}
