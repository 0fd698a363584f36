//! What only the operating system can do, and the only `unsafe` of the subject.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::fault::broken;

/// Makes `command` lead a session of its own, and inherit no descriptor but the standard three. One that is `private`
/// does not outlive the thread that starts it.
pub(super) fn detach(command: &mut Command, private: bool) {
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: it makes three
    // system calls and reads no memory but its captured flag and the fault, which was set long before.
    unsafe {
        command.pre_exec(move || {
            if broken("CONN-30.same-session") {
                rustix::process::setpgid(None, None)?;
            } else if !broken("CONN-30.same-group") {
                rustix::process::setsid()?;
            }
            if private || broken("CONN-30.ends-with-it") {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            }
            if broken("CONN-31.descriptors") {
                return Ok(());
            }
            close_on_exec_from(3)
        });
    }
}

/// Marks every descriptor from `first` on to be closed by an exec.
fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: a system call with plain numbers; the marked descriptors stay open and owned as they are.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether there is a process of this number.
pub(super) fn lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
