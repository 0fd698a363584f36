//! `locald`: a local daemon that people can use every day, and the reference for the Local Daemon Protocol.

mod allowlist;
mod cli;
mod daemon;
mod error;
mod log;
mod render;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
