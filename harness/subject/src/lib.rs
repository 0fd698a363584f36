//! The independent subject: a second daemon and a second client, small and plain, written from the specification alone,
//! and their faults.
//!
//! It shares no code with the harness or with the crate: what judges and what is judged would otherwise be wrong together.

mod browser;
mod child;
pub mod client;
mod connect;
mod convergence;
mod credential;
pub mod daemon;
pub mod degenerate;
mod fault;
pub mod faults;
mod gate;
mod handshake;
mod manage;
mod open;
pub mod perimeter;
mod platform;
mod probe;
mod publish;
pub mod readers;
mod registration;
mod server;
mod state_directory;
mod streams;
#[cfg(test)]
mod vectors;
