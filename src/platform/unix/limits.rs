//! The soft limits that this process changes for itself alone. The programs that it starts get the caller's limits back.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A resource whose soft limit this process may change.
struct Limit {
    resource: Resource,
    /// The soft limit that this process began with, set before the first change; `None` inside means no limit.
    of_caller: OnceLock<Option<u64>>,
}

impl Limit {
    const fn new(resource: Resource) -> Self {
        Self { resource, of_caller: OnceLock::new() }
    }
}

static LIMITS: [Limit; 2] = [Limit::new(Resource::Core), Limit::new(Resource::Nofile)];

/// Sets the soft limit of this process to `soft`, or to the hard limit if that is lower or `soft` is `None`. The hard limit
/// stays.
fn set_soft_limit(resource: Resource, soft: Option<u64>) -> io::Result<()> {
    let now = getrlimit(resource);
    if let Some(limit) = LIMITS.iter().find(|limit| limit.resource == resource) {
        limit.of_caller.get_or_init(|| now.current);
    }
    let current = match (soft, now.maximum) {
        (Some(soft), Some(hard)) => Some(soft.min(hard)),
        (soft, hard) => soft.or(hard),
    };
    Ok(setrlimit(resource, Rlimit { current, ..now })?)
}

/// Raises the soft limit of descriptors of this process to the hard one. Best effort: a lower one serves fewer.
#[cfg(feature = "daemon")]
pub(crate) fn raise_descriptor_limit() {
    /// The most that macOS accepts if there is no hard limit.
    const OPEN_MAX: u64 = 10_240;
    let is_low = getrlimit(Resource::Nofile).current.is_some_and(|current| current < OPEN_MAX);
    if set_soft_limit(Resource::Nofile, None).is_err() && is_low {
        let _ = set_soft_limit(Resource::Nofile, Some(OPEN_MAX));
    }
}

/// Gives a child its caller's soft limits back, before it executes its program. Async-signal-safe.
pub(super) fn restore_limits() {
    for Limit { resource, of_caller } in &LIMITS {
        if let Some(&current) = of_caller.get() {
            // Fails only if the hard limit was lowered meanwhile.
            let _ = setrlimit(*resource, Rlimit { current, ..getrlimit(*resource) });
        }
    }
}

/// Disables core dumps of this process, which would contain the credential (CRED-15). A daemon does this by itself. A
/// program that embeds a [`Client`](crate::Client) calls this before it connects, if it can do without core dumps of its
/// own.
///
/// The soft limit becomes 1 byte: Linux then writes no file, and pipes nothing to a program either, as it does under a
/// limit of 0. A debugger still works. Programs that this process starts inherit the limit, unless they are started by this
/// crate or with [`with_caller_limits`]. The hard limit stays; if it is 0, this process is made undumpable instead on
/// Linux, and a debugger can no longer attach to it.
///
/// # Errors
/// Fails if the system does not allow it.
pub fn disable_core_dumps() -> io::Result<()> {
    set_soft_limit(Resource::Core, Some(1))?;
    #[cfg(target_os = "linux")]
    if getrlimit(Resource::Core).current == Some(0) {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

/// Starts the program of `command` with the soft limits that this process had before this crate changed them: that of core
/// dumps and, in a daemon, that of descriptors. Like each `pre_exec` hook of a [`Command`], it makes the spawn panic if
/// SIGCHLD is ignored and the program cannot be executed.
///
/// ```
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// let status = local_daemon::with_caller_limits(&mut Command::new("true")).status()?;
/// assert!(status.success());
/// # Ok(()) }
/// ```
pub fn with_caller_limits(command: &mut Command) -> &mut Command {
    let restore = || {
        restore_limits();
        Ok(())
    };
    // SAFETY: the hook makes system calls on plain numbers, and reads what was stored before the fork.
    unsafe { command.pre_exec(restore) }
}
