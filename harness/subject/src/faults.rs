//! Every fault of the subject.

pub use super::fault::Fault;
use crate::{
    browser, client, convergence, credential, fault, gate, handshake, notes, perimeter, publish,
    registration, state_directory, streams,
};

/// The daemon's, in the order of the specification's chapters.
const DAEMON: &[&[Fault]] = &[
    state_directory::faults::FAULTS,
    registration::faults::FAULTS,
    credential::faults::FAULTS,
    publish::faults::FAULTS,
    convergence::faults::FAULTS,
    handshake::faults::FAULTS,
    gate::faults::FAULTS,
    perimeter::faults::FAULTS,
    streams::faults::FAULTS,
    browser::faults::FAULTS,
    notes::faults::FAULTS,
];

/// Every fault, in the order of the specification's chapters, the daemon's before the client's.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    DAEMON.iter().copied().flatten().chain(client::faults::FAULTS)
}

/// Makes this process have the named fault, for good. Returns `false` if no fault has this name, or the process has one
/// already.
pub fn choose(name: &str) -> bool {
    all().find(|fault| fault.name == name).is_some_and(fault::choose)
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

    /// Returns every text in quotation marks that has the form of a fault's name, but for those of the lists:
    /// `fault("NAME", …)`.
    fn asked_for() -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut open = vec![Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).to_owned()];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            // The tests of this file invent names.
            let source = source.split("#[cfg(test)]").next().unwrap();
            let mut before = "";
            for text in source.split('"') {
                let id = text.split('.').next().unwrap_or_default();
                let is_listed = before.trim_end().ends_with("fault(");
                if text.contains('.') && catalogue().get(id).is_some() && !is_listed {
                    names.insert(text.to_owned());
                }
                before = text;
            }
        }
        names
    }

    #[test]
    fn names_are_unique_and_of_requirements_that_bind() {
        let daemon = DAEMON.iter().copied().flatten().map(|fault| (fault, Role::Daemon));
        let all = daemon.chain(client::faults::FAULTS.iter().map(|fault| (fault, Role::Client)));
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
        let asked = asked_for();
        let not_both: Vec<_> = listed.symmetric_difference(&asked).collect();
        assert!(not_both.is_empty(), "listed or asked for, and not both: {not_both:?}");
    }

    #[test]
    fn near_names_are_of_the_same_requirement_or_chapter() {
        assert!(near("PUB-3.no-such").iter().all(|name| name.starts_with("PUB-3.")));
        assert!(near("PUB-99").len() > 5);
    }
}
