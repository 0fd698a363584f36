//! A fault breaks exactly one requirement, in the way a plausible programmer would.
//!
//! The list of a chapter's faults is in the module `faults` below the chapter's own, with the misbehaviour that
//! takes many lines. The subject asks [`broken`] at the place where a fault shows.

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

pub(crate) const fn fault(name: &'static str, about: &'static str) -> Fault {
    Fault { name, about }
}

/// The fault that this process has.
static CHOSEN: OnceLock<&'static str> = OnceLock::new();

/// Makes this process have a fault, for good. Returns `false` if it has one already.
pub(crate) fn choose(fault: &Fault) -> bool {
    CHOSEN.set(fault.name).is_ok()
}

/// Whether this process has the named fault.
pub(crate) fn broken(name: &str) -> bool {
    CHOSEN.get().is_some_and(|chosen| *chosen == name)
}

/// What a busy machine puts between two steps of a faulty daemon.
pub(crate) fn window() {
    sleep(Duration::from_millis(20));
}
