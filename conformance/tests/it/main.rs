//! `daemonspec` as its users meet it, its reports, and its lists and files against each other.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails the test that called it")]

mod bugs;
mod cli;
mod kills;
mod mutants;
mod report;
mod threats;
mod traceability;
