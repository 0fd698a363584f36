//! Signals that would end a daemon at once, with its record left behind (LIFE-35, LIFE-39).

use std::ptr::null_mut;
use std::{io, mem};

use libc::c_int;

/// The signals on which a daemon stands down or reads its files again. Soon after SIGXCPU the system ends the process.
const HANDLED: [c_int; 5] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGXCPU,
];

/// The signals after which a daemon goes on. After SIGXFSZ, the write that exceeded the limit fails.
const SURVIVED: [c_int; 7] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGXFSZ,
];

/// Unblocks the handled signals in the calling thread, and so in the process: a mask survives fork and exec.
pub(crate) fn unblock_handled_signals() {
    // SAFETY: a set of signals is plain data, which the calls fill in.
    unsafe {
        let mut signals = mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in HANDLED {
            libc::sigaddset(&raw mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, null_mut());
    }
}

/// Makes this process survive signals that are sent by mistake (LIFE-39). Each gets a handler that does nothing instead of
/// `SIG_IGN`, which children would inherit. A handler that the program has set itself stays.
pub(crate) fn survive_signals() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    let more = [libc::SIGPWR, libc::SIGSTKFLT].into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
    #[cfg(not(target_os = "linux"))]
    let more = [];
    SURVIVED.into_iter().chain(more).try_for_each(survive)
}

extern "C" fn do_nothing(_: c_int) {}

fn survive(signal: c_int) -> io::Result<()> {
    // SAFETY: an action is plain data, and the handler does nothing.
    let done = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        match libc::sigaction(signal, std::ptr::null(), &raw mut action) {
            0 if action.sa_sigaction == libc::SIG_DFL => {
                action = mem::zeroed();
                action.sa_sigaction = do_nothing as extern "C" fn(c_int) as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, null_mut())
            }
            looked => looked,
        }
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
