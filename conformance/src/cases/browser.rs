//! The browser: chapter 12.

mod engines;
mod handoff;
mod launchers;
mod page;
mod tickets;
mod tokens;
pub(super) mod visit;
