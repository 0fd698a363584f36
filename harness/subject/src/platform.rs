//! What only the operating system can do, and the only `unsafe` of the subject.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use libc::{c_int, sigset_t};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::fault::broken;

/// The limits that a daemon begins with as high as they may be.
const RAISED: [Resource; 4] = [Resource::Cpu, Resource::Fsize, Resource::As, Resource::Data];

/// Makes `command` lead a session of its own, inherit no descriptor but the standard three, and begin with default
/// signals and raised limits. One that is `private` does not outlive the thread that starts it.
pub(super) fn detach(command: &mut Command, private: bool) {
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: it makes
    // system calls and reads no memory but its captured flag and the fault, which was set long before.
    unsafe {
        command.pre_exec(move || {
            begin_afresh();
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

/// Empties the signal mask, gives each signal its default disposition, and raises limits, which all survive an exec.
fn begin_afresh() {
    if !broken("CONN-47.ignored") {
        // The last number of a real-time signal; the C library keeps some of the numbers for itself.
        for signal in 1..=64 {
            // SAFETY: no handler is installed, and a number that may not be changed is refused.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    if !broken("CONN-47.mask") {
        change_mask(libc::SIG_SETMASK, &[]);
    }
    if broken("CONN-48.umask") {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    }
    if !broken("CONN-48.limits") {
        for resource in RAISED {
            let maximum = getrlimit(resource).maximum;
            let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
        }
    }
}

/// Changes the signal mask of this thread.
fn change_mask(how: c_int, signals: &[c_int]) {
    let mut set = MaybeUninit::<sigset_t>::uninit();
    // SAFETY: the first call initialises the set, and all of them get a pointer that is valid for the call.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Unblocks signals that the launcher may have blocked. It must be called before there are other threads.
pub(super) fn unblock(signals: &[c_int]) {
    change_mask(libc::SIG_UNBLOCK, signals);
}

/// Gives SIGCHLD its default disposition: if it is ignored, the system keeps no status of a child.
pub(super) fn hear_of_children() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
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
