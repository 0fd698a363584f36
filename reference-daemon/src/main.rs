//! `locald`: a local daemon that people can use every day, and the reference for the Local Daemon Protocol.

mod allowlist;
mod cli;
mod daemon;
mod error;
mod log;
mod render;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before there is a second thread: what this process starts is not told what its launcher told it.
    local_daemon::forget_launch();
    cli::main()
}
