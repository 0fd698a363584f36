//! What differs between operating systems, behind one face: owner-only files, directories, detached children,
//! readiness pipes, locks. Windows (DIR-15) has its seam here and no code.

mod file_error;
pub use file_error::FileErrorKind;

#[cfg(unix)]
mod unix;
#[cfg(all(unix, feature = "daemon"))]
pub use unix::listen_fds;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(unix)]
pub use unix::{LAUNCH_VARIABLE, disable_core_dumps, forget_launch, with_caller_limits};

#[cfg(all(target_os = "linux", not(local_daemon_portable)))]
#[path = "platform/linux.rs"]
mod system;
#[cfg(all(unix, any(not(target_os = "linux"), local_daemon_portable)))]
#[path = "platform/portable.rs"]
mod system;
#[cfg(all(unix, feature = "daemon"))]
pub(crate) use system::{Peers, give_memory_back};
#[cfg(unix)]
pub(crate) use system::{Process, Watch, is_network_filesystem, world};

#[cfg(not(unix))]
compile_error!(
    "local-daemon runs on Unix systems; what Windows must do (owner-only ACLs, LockFileEx, MoveFileEx) is written in \
     the chapter `state directory` of the specification, and belongs beside platform/unix.rs"
);
