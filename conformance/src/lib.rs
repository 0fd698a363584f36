//! `daemonspec` judges any implementation of the Local Daemon Protocol, in any language, as a black box.
//!
//! It starts the subject that a [`manifest`] describes, watches its files, processes and sockets, speaks HTTP to it
//! and gives a [`verdict`] on each requirement. It shares no code with the protocol crate: what both need is the data
//! in `local-daemon-spec`.
//!
//! A [`case`] is a function on a [`stage`]; the [`cases`] lie by chapter. The [`runner`] gives each one its own state
//! directory, home, subject and process group, and [`report`] says what came of it. [`traceability`] leads from a
//! requirement to the code that meets it and to the cases that judge it.

#![forbid(unsafe_code)]

pub mod baseline;
pub mod case;
pub mod cases;
pub mod check_trace;
pub mod destination;
pub mod engines;
mod fixtures;
pub mod interop;
pub mod manifest;
pub mod mutants;
pub mod nearest;
pub mod outcome;
pub mod preflight;
pub mod replay;
pub mod report;
pub mod rng;
pub mod runner;
pub mod soak;
pub mod stage;
pub mod traceability;
pub mod verdict;
