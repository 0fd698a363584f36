//! The cases: a module a chapter, and in `client` those of the client role; then the traces of the formal model.

mod browser;
mod client;
mod convergence;
mod credential;
mod gate;
mod handshake;
mod perimeter;
mod publish;
mod registration;
mod scene;
mod schedule;
mod state_directory;
pub(crate) mod streams;

use crate::case::Case;

/// Every case, in the order of the specification's chapters; then the schedules.
const CHAPTERS: &[&[Case]] = &[
    state_directory::CASES,
    client::state_directory::CASES,
    registration::CASES,
    client::registration::CASES,
    credential::CASES,
    client::credential::CASES,
    publish::CASES,
    convergence::CASES,
    client::convergence::CASES,
    handshake::CASES,
    client::handshake::CASES,
    gate::CASES,
    client::gate::CASES,
    client::connect::CASES,
    client::spawn::CASES,
    perimeter::checks::CASES,
    perimeter::host::CASES,
    perimeter::origin::CASES,
    perimeter::preflight::CASES,
    perimeter::authentication::CASES,
    perimeter::query_token::CASES,
    perimeter::bounds::CASES,
    perimeter::answers::CASES,
    perimeter::allowlist::CASES,
    streams::CASES,
    browser::tickets::CASES,
    browser::tokens::CASES,
    browser::launchers::CASES,
    browser::page::CASES,
    browser::handoff::CASES,
    browser::CASES,
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
