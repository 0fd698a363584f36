//! Signals that would end a daemon at once, with its record left behind (LIFE-35, LIFE-39).

use std::ptr::null_mut;
use std::{io, mem};

use libc::c_int;

/// By which a daemon stands down, or reads its files again. The processor time is over soon after SIGXCPU, and then the system
/// ends the process.
const STOPPING: [c_int; 5] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGXCPU,
];

/// After which a daemon goes on. With SIGXFSZ, the write fails that was too long for the limit.
const SURVIVED: [c_int; 7] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGXFSZ,
];

/// Lets the calling thread, and with it the process, receive the signals by which it stands down: a mask survives fork and
/// exec.
pub(crate) fn unblock_stop_signals() {
    // SAFETY: a set of signals is plain data, which the calls fill in.
    unsafe {
        let mut signals = mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in STOPPING {
            libc::sigaddset(&raw mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, null_mut());
    }
}

/// Lets this process go on after signals that are sent by mistake. Each of them gets a handler that does nothing, and not
/// `SIG_IGN`, which children would inherit. A handler that the program has set itself stays.
pub(crate) fn survive_signals() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    let more = [libc::SIGPWR, libc::SIGSTKFLT].into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
    #[cfg(not(target_os = "linux"))]
    let more = [];
    SURVIVED.into_iter().chain(more).try_for_each(survive)
}

extern "C" fn go_on(_: c_int) {}

fn survive(signal: c_int) -> io::Result<()> {
    // SAFETY: an action is plain data, and the handler does nothing.
    let done = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        match libc::sigaction(signal, std::ptr::null(), &raw mut action) {
            0 if action.sa_sigaction == libc::SIG_DFL => {
                action = mem::zeroed();
                action.sa_sigaction = go_on as extern "C" fn(c_int) as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, null_mut())
            }
            looked => looked,
        }
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
