//! Sockets that a service manager passes to the process that it starts (`sd_listen_fds(3)`).

use std::env;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketType, getsockname, sockopt};

use super::system;

/// The first descriptor that is passed.
const FIRST: RawFd = 3;
/// What says how many there are, for which process, and how they are called.
const VARIABLES: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Takes the listening sockets that the service manager passed to this very process by `LISTEN_FDS` and `LISTEN_PID`; none if
/// it passed none, or if they were taken before. Call it at the beginning of `main`, before anything is opened, and give them to
/// [`Builder::listener`](crate::daemon::Builder::listener).
///
/// Programs that this one starts inherit none of the sockets. The variables are removed if no other thread can read the
/// environment meanwhile; they mean nothing to another process.
///
/// ```
/// use local_daemon::Daemon;
/// use local_daemon::daemon::listen_fds;
///
/// # fn main() -> std::io::Result<()> {
/// let builder = Daemon::builder("acme", "acme/1");
/// // Without a service manager, the system chooses a port.
/// let builder = listen_fds()?.into_iter().fold(builder, |builder, listener| builder.listener(listener));
/// # Ok(()) }
/// ```
///
/// # Errors
/// Fails if the variables are not what they should be, or if one of the sockets is not a listening one of TCP.
pub fn listen_fds() -> io::Result<Vec<TcpListener>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let [count, pid, _] = VARIABLES.map(env::var_os);
    let (Some(count), Some(pid)) = (count, pid) else {
        return Ok(Vec::new());
    };
    let is_mine = pid.to_str() == Some(&std::process::id().to_string());
    if !is_mine || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    if system::has_one_thread() {
        for name in VARIABLES {
            // SAFETY: this thread is the only one, so nothing reads or writes the environment meanwhile.
            unsafe { env::remove_var(name) };
        }
    }
    let count: Option<RawFd> = count.to_str().and_then(|count| count.parse().ok());
    let end = count.and_then(|count| FIRST.checked_add(count)).filter(|end| *end >= FIRST);
    let end = end.ok_or_else(|| invalid("LISTEN_FDS is not a number of descriptors"))?;
    for number in FIRST..end {
        check(number)?;
    }
    let listener = |number| {
        // SAFETY: the service manager opened this descriptor for this very process, which has just recognised it as a
        // listening socket, and it is taken once.
        TcpListener::from(unsafe { OwnedFd::from_raw_fd(number) })
    };
    Ok((FIRST..end).map(listener).collect())
}

fn check(number: RawFd) -> io::Result<()> {
    // SAFETY: the number is only asked what it is, and one that is no descriptor answers EBADF.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC)?;
    if is_tcp_listener(socket)? {
        Ok(())
    } else {
        Err(invalid(&format!("descriptor {number} of LISTEN_FDS is not a listening socket of TCP")))
    }
}

/// Whether this is a listening socket of TCP. A `TcpListener` can be made of any descriptor.
pub(crate) fn is_tcp_listener(socket: impl AsFd) -> io::Result<bool> {
    let socket = socket.as_fd();
    let is_tcp = sockopt::socket_type(socket)? == SocketType::STREAM
        && matches!(getsockname(socket)?.address_family(), AddressFamily::INET | AddressFamily::INET6);
    Ok(is_tcp && is_listening(socket)?)
}

#[cfg(not(target_vendor = "apple"))]
fn is_listening(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(sockopt::socket_acceptconn(socket)?)
}

/// macOS does not tell.
#[cfg(target_vendor = "apple")]
#[allow(clippy::unnecessary_wraps)]
fn is_listening(_: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(true)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.to_owned())
}
