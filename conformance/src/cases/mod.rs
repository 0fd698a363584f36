//! The cases, one file a chapter, in the order of the specification; then the traces of the formal model.

mod convergence;
mod credential;
mod gate;
mod handshake;
mod publish;
mod registration;
mod scene;
mod schedule;
mod state_directory;

use crate::case::Case;

/// Every case, in the order of the specification's chapters; then the schedules.
pub const CHAPTERS: &[&[Case]] = &[
    state_directory::CASES,
    registration::CASES,
    credential::CASES,
    publish::CASES,
    convergence::CASES,
    handshake::CASES,
    gate::CASES,
    schedule::CASES,
];

/// Every case, in that order.
pub fn all() -> impl Iterator<Item = &'static Case> {
    CHAPTERS.iter().copied().flatten()
}

/// A case by its exact name.
pub fn get(name: &str) -> Option<&'static Case> {
    all().find(|case| case.name == name)
}
