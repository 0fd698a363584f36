//! The independent subject: a second daemon and a second client, small and plain, written from the specification alone,
//! and their faults.
//!
//! It takes nothing from the rest of the harness: what judges and what is judged would otherwise be wrong together.

mod browser;
mod browser_faults;
mod browser_misdeeds;
mod child;
pub mod client;
mod client_faults;
mod connect;
mod convergence;
mod credential;
pub mod daemon;
mod daemon_faults;
pub mod fault;
mod handshake;
mod manage;
mod misdeeds;
mod open;
pub mod perimeter;
mod perimeter_misdeeds;
mod platform;
mod probe;
mod publish;
pub mod readers;
mod registration;
mod server;
mod state_directory;
mod stream_faults;
mod streams;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod vectors;
