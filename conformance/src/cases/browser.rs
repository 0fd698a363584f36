//! The browser: chapter 12.

mod engines;
mod handoff;
mod launchers;
mod page;
mod page_host;
mod tickets;
mod tokens;
pub(super) mod visit;
