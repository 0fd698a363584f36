//! `locald`: a local daemon that people can use every day, and the reference for the Local Daemon Protocol.

mod allowlist;
mod cli;
mod daemon;
mod error;
mod log;

use std::process::ExitCode;

use local_daemon::text as render;

fn main() -> ExitCode {
    // Before there is a second thread: the programs that this process starts must not inherit what its launcher passed to it.
    local_daemon::forget_launch();
    // CRED-15, before there is a secret. Best effort: no known host forbids lowering a limit.
    let _ = local_daemon::disable_core_dumps();
    cli::main()
}
