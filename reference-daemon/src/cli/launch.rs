//! How the daemon is started: as a process of its own, or in this one.

use std::env;
use std::path::PathBuf;

use local_daemon::Launch;
use tokio::runtime::{Builder, Runtime};

use super::Context;
use crate::daemon::COMPONENT;
use crate::error::Error;

/// The variable that names another program to start as the daemon, such as one that runs it under a debugger.
const DAEMON: &str = "LOCALD_DAEMON";

/// How to start this very program, or the one that the environment names, as the daemon of the context's state directory.
/// With `replace`, that publishes also over the record of a daemon that cannot be asked (CONN-49).
pub(super) fn launch(context: &Context, mode: &str, replace: bool) -> Result<Launch, Error> {
    let program = match env::var_os(DAEMON).filter(|program| !program.is_empty()) {
        Some(program) => PathBuf::from(program),
        None => env::current_exe().map_err(|source| Error::Io {
            path: COMPONENT.into(),
            doing: "the running program's own path is not known",
            source,
        })?,
    };
    let directory = context.directory().path().as_os_str();
    Ok(Launch::new(program)
        .args(["run", "--yield"])
        .args(replace.then_some("--replace"))
        .args(["--mode", mode, "--state-dir"])
        .args([directory]))
}

/// Returns the runtime of a daemon in this process.
pub(super) fn runtime() -> Result<Runtime, Error> {
    Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)
}
