//! What Linux has beyond other Unix systems.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::mem::MaybeUninit;
#[cfg(feature = "daemon")]
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use local_daemon_proto::registration::{self, World};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags, chmod, fstat, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{lacks_owner_bits, with_owner_all};
use crate::exchange::deadline_in;

/// Below the home, where per-user state lives whatever the environment says.
pub(super) const STATE_HOME: Option<&str> = None;

/// How a directory is opened in which names are looked up: this needs no permission to read it.
pub(super) const LOOKUP_FLAGS: OFlags = OFlags::PATH;

/// Restores the owner's permission bits that a umask took from a directory that this process has just created. It uses a
/// descriptor, because another process may have replaced the directory since (DIR-21).
pub(super) fn give_owner_all(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let created = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&created)?;
    if lacks_owner_bits(&stat) {
        // A directory without these bits can only be opened as O_PATH, which fchmod refuses.
        chmod(format!("/proc/self/fd/{}", created.as_raw_fd()), with_owner_all(&stat))?;
    }
    Ok(())
}

/// Change notification for a directory: its descriptor can be read when a name there may mean something else than before.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Neither what is read nor each write of a log: only what gives a name another meaning.
        let changes = WatchFlags::CREATE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF;
        inotify::add_watch(&inotify, directory, changes | WatchFlags::ONLYDIR)?;
        Ok(Self(inotify))
    }

    /// Takes off what there is to read.
    pub(crate) fn take(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        while events.next().is_ok() {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Whether a directory's filesystem is one that other hosts write to as well; unknown counts as local.
pub(crate) fn is_network_filesystem(path: &Path) -> bool {
    // statfs(2): NFS, SMB, CIFS, SMB2, AFS (kAFS and OpenAFS), Ceph, 9P, Coda, NCP, OCFS2, GFS2, Lustre.
    const NETWORK: &[u32] = &[
        0x6969,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x6b41_4653,
        0x5346_414f,
        0x00c3_6400,
        0x0102_1997,
        0x7375_7245,
        0x564c,
        0x7461_636f,
        0x0116_1970,
        0x0bd0_0bd0,
    ];
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the magic has 32 bits")]
    rustix::fs::statfs(path).is_ok_and(|fs| NETWORK.contains(&(fs.f_type as u32)))
}

/// Returns the world of this process, as far as the system tells it (REG-14).
pub(crate) fn world() -> World {
    let text = |path| -> Option<Box<str>> {
        let text = fs::read_to_string(path).ok()?;
        Some(text.trim()).filter(|text| !text.is_empty()).map(Into::into)
    };
    let link = |path| -> Option<Box<str>> { Some(fs::read_link(path).ok()?.to_str()?.into()) };
    World {
        host: text("/etc/machine-id").map(|id| registration::host(&id).into()),
        boot: text("/proc/sys/kernel/random/boot_id"),
        netns: link("/proc/self/ns/net"),
        pidns: link("/proc/self/ns/pid"),
    }
}

/// Marks every descriptor from `first` on close-on-exec; returns whether the kernel could. Async-signal-safe.
pub(super) fn close_on_exec_from(first: RawFd) -> bool {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor from `first` on; returns whether the kernel could. Async-signal-safe.
///
/// # Safety
/// Nothing in this process owns one of them.
pub(super) unsafe fn close_from(first: RawFd) -> bool {
    close_range(first, 0)
}

fn close_range(first: RawFd, flags: libc::c_uint) -> bool {
    let (first, last) = (first.cast_unsigned(), libc::c_uint::MAX);
    // SAFETY: a system call on plain numbers; a caller that closes descriptors promises that nothing owns them.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) == 0 }
}

/// Lets this process end by SIGKILL with the thread that forked it; returns whether that worked. Async-signal-safe.
pub(super) fn dies_with(parent: libc::pid_t) -> bool {
    // SAFETY: system calls on plain numbers. The second one sees a parent that was gone before the first.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 && libc::getppid() == parent }
}

/// Lets this process be stopped when it executes a program, and end with its parent; returns whether both worked.
/// Async-signal-safe.
pub(super) fn stops_at_execution(parent: libc::pid_t) -> bool {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: a request about this process itself, which reads no memory.
    dies_with(parent) && unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, nothing, nothing) == 0 }
}

/// Gives a signal its default disposition. Async-signal-safe.
///
/// This is the kernel's call, because the C library refuses its own one for the signals that it reserves, and a caller may
/// have ignored these too.
pub(super) fn reset_disposition(signal: libc::c_int) {
    // The kernel's structure: the default handler, no flags and an empty mask are zeros throughout.
    let default = [0_u64; 8];
    let mask_bytes = 8_usize;
    // SAFETY: the kernel reads less than there is, and writes nothing.
    unsafe {
        let before = std::ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), before, mask_bytes);
    }
}

/// Whether the calling thread is this process's only one; `false` if the system does not say.
pub(super) fn has_one_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Lets the system have what the allocator keeps of freed memory, where it keeps any.
#[cfg(feature = "daemon")]
pub(crate) fn give_memory_back() {
    // SAFETY: the allocator takes its own locks, and touches nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Asks the kernel for the user at the other end of a connection, through `sock_diag(7)`. Each request names one connection, so
/// that its cost does not grow with the number of sockets.
#[cfg(feature = "daemon")]
pub(crate) struct Peers {
    socket: OwnedFd,
    /// The sequence number of the last request.
    sequence: u32,
}

#[cfg(feature = "daemon")]
impl Peers {
    /// The lengths of `nlmsghdr`, `inet_diag_req_v2` and `inet_diag_msg` in bytes.
    const HEADER: usize = 16;
    const REQUEST: usize = 56;
    const ANSWER: usize = 72;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;

    pub(crate) fn open() -> io::Result<Self> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Returns the user whose socket at `peer` is connected to `own`; `None` if the kernel does not report it, or if that socket
    /// is closed.
    pub(crate) fn user(&mut self, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
        use rustix::net::{RecvFlags, SendFlags, recv, send};
        self.sequence = self.sequence.wrapping_add(1);
        let socket_id = socket_id(peer, own);
        let request = self.request(peer.is_ipv6(), &socket_id);
        send(&self.socket, &request, SendFlags::empty()).ok()?;
        // The kernel has answered by now. An earlier answer may be left over if reading it was interrupted.
        let mut answer = [0; 512];
        while let Ok((length, _)) = recv(&self.socket, &mut answer, RecvFlags::DONTWAIT) {
            if answer.get(8..12)? == self.sequence.to_ne_bytes() {
                return Self::user_in(answer.get(..length)?, &socket_id);
            }
        }
        None
    }

    fn request(&self, is_ipv6: bool, socket_id: &[u8; 36]) -> Vec<u8> {
        let mut request = Vec::with_capacity(Self::HEADER + Self::REQUEST);
        request.extend(u32::try_from(Self::HEADER + Self::REQUEST).unwrap_or_default().to_ne_bytes());
        request.extend(Self::SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        request.extend(1_u16.to_ne_bytes()); // NLM_F_REQUEST
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]); // to the kernel
        let family = if is_ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        request.extend([family, libc::IPPROTO_TCP, 0, 0].map(|number| number.to_ne_bytes()[0]));
        request.extend(u32::MAX.to_ne_bytes()); // in any state
        request.extend(socket_id);
        request.extend([0; 4]); // at any interface
        request.extend([0xff; 8]); // no cookie
        request
    }

    fn user_in(answer: &[u8], socket_id: &[u8; 36]) -> Option<u32> {
        let number = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
        let is_answer = answer.len() >= Self::HEADER + Self::ANSWER
            && answer[4..6] == Self::SOCK_DIAG_BY_FAMILY.to_ne_bytes()
            // Without such a connection the kernel answers for a socket that listens at the same address.
            && answer[20..56] == *socket_id;
        // A socket without an inode is closed, and its user is not known.
        (is_answer && number(84)? != 0).then(|| number(80))?
    }
}

/// Returns the ports and addresses of a socket and of its peer, as at the beginning of `inet_diag_sockid`.
#[cfg(feature = "daemon")]
fn socket_id(own: SocketAddr, peer: SocketAddr) -> [u8; 36] {
    let address = |end: SocketAddr| {
        let mut bytes = [0; 16];
        match end.ip() {
            IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes = ip.octets(),
        }
        bytes
    };
    let mut bytes = [0; 36];
    bytes[..2].copy_from_slice(&own.port().to_be_bytes());
    bytes[2..4].copy_from_slice(&peer.port().to_be_bytes());
    bytes[4..20].copy_from_slice(&address(own));
    bytes[20..].copy_from_slice(&address(peer));
    bytes
}

/// A hold on one process that a later process with the same pid does not inherit.
#[derive(Debug)]
pub(crate) struct Process(OwnedFd);

impl Process {
    pub(crate) fn open(pid: NonZeroU32) -> io::Result<Self> {
        let pid = i32::try_from(pid.get()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    pub(crate) fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.0, Signal::KILL)?)
    }

    /// Waits until the process has ended, a zombie included; `false`: it still runs after `bound`.
    pub(crate) fn wait(&self, bound: Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let ends = deadline_in(bound);
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                polled => return Ok(polled? > 0),
            }
        }
    }
}

#[cfg(all(test, feature = "daemon"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_user_of_an_open_connection_is_known_and_that_of_a_closed_one_is_not() {
        let me = rustix::process::geteuid().as_raw();
        let mut peers = Peers::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let own = server.local_addr().unwrap();
            assert_eq!(peers.user(peer, own), Some(me), "{address}");
            drop(client);
            assert_eq!(peers.user(peer, own), None, "{address}");
            // A socket that listens is not the end of a connection.
            let unused = SocketAddr::new(own.ip(), 1);
            assert_eq!(peers.user(own, unused), None, "{address}");
        }
    }
}
