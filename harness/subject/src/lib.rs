//! The independent subject: a second daemon and a second client, small and plain, written from the specification alone,
//! and their faults.
//!
//! It shares no code with the harness or with the crate: what judges and what is judged would otherwise be wrong together.
//!
//! A module imports only what is below it: `fault` and `platform`; `gate` and the files of a state directory
//! (`state_directory`, `world`, `registration`, `credential`, `publish`); requests and what is checked of them (`handshake`,
//! `answer`, `request`, `streams`, `perimeter`, `strangers`, `browser`, `origins`); `state`, which the threads of a daemon share;
//! `notes` and `product`, what may be posted; `convergence` and `server`; `launch`. The client uses `probe` and the modules below `state`. `faults` lists the faults of
//! all; `readers` are the parsers that the fuzzers compare with others, `degenerate` the subjects that answer everything alike.

mod answer;
mod browser;
pub mod client;
mod convergence;
mod credential;
pub mod degenerate;
mod fault;
pub mod faults;
mod gate;
mod handshake;
pub mod launch;
mod notes;
mod origins;
mod perimeter;
mod platform;
mod probe;
mod product;
mod publish;
pub mod readers;
mod reason;
mod registration;
mod request;
mod server;
mod state;
mod state_directory;
mod strangers;
mod streams;
#[cfg(test)]
mod vectors;
mod world;
