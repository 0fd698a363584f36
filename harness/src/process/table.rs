//! Every process and socket of the system, as `/proc` tells them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Instant;

use rustix::process::PidfdFlags;

use super::{Signal, ended_by, raw};
use crate::wait::{ms, until};

/// One process, as `/proc` showed it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proc {
    /// Process id.
    pub pid: u32,
    /// Its parent.
    pub ppid: u32,
    /// Its process group.
    pub pgrp: u32,
    /// Its session.
    pub session: u32,
    /// `R`, `S`, `D`, `T`, `Z` and so on.
    pub state: char,
    /// The short name.
    pub comm: String,
    /// Start time in clock ticks since boot: with the pid, who this is.
    pub start: u64,
}

impl Proc {
    /// The process with this id, if there is one.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        let stat = String::from_utf8_lossy(stat);
        // The name may hold anything, parentheses and spaces too: it ends at the last parenthesis.
        let (pid, rest) = stat.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        Some(Self {
            pid: pid.parse().ok()?,
            ppid: fields.get(1)?.parse().ok()?,
            pgrp: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            comm: comm.to_owned(),
            start: fields.get(19)?.parse().ok()?,
        })
    }

    /// Ended, and not yet reaped by its parent.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Its command line now.
    pub fn argv(&self) -> Vec<OsString> {
        self.strings("cmdline")
    }

    /// Its environment at its start, as `NAME=value`.
    pub fn environ(&self) -> Vec<OsString> {
        self.strings("environ")
    }

    fn strings(&self, file: &str) -> Vec<OsString> {
        let bytes = std::fs::read(format!("/proc/{}/{file}", self.pid)).unwrap_or_default();
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        if bytes.is_empty() {
            return Vec::new();
        }
        bytes.split(|byte| *byte == 0).map(|string| OsString::from_vec(string.to_vec())).collect()
    }

    /// Returns a field of `/proc/PID/status`, such as `Umask` or `SigBlk`.
    pub fn status(&self, field: &str) -> Option<String> {
        self.line("status", field).map(|value| value.trim_start_matches(':').trim().to_owned())
    }

    /// Returns the soft and the hard value of a limit, by its name in `/proc/PID/limits`, such as `Max open files`.
    pub fn limit(&self, name: &str) -> Option<(String, String)> {
        let values = self.line("limits", name)?;
        let mut values = values.split_whitespace().map(str::to_owned);
        Some((values.next()?, values.next()?))
    }

    /// Returns the rest of the first line that begins with `begin`.
    fn line(&self, file: &str, begin: &str) -> Option<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(begin)).map(str::to_owned)
    }

    /// Its memory in bytes: what is its own, and its share of what it has in common with others.
    pub fn memory(&self) -> Option<u64> {
        let sizes = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let share = sizes.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(share.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// Its working directory.
    pub fn cwd(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    /// Its program.
    pub fn exe(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }

    /// What its descriptors lead to: paths, `socket:[inode]`, `pipe:[inode]` …
    pub fn descriptors(&self) -> Vec<(u32, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return Vec::new();
        };
        let entries = entries.flatten();
        entries
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                Some((number, std::fs::read_link(entry.path()).ok()?))
            })
            .collect()
    }

    /// A descriptor that is this very process and not one that was given its number later.
    fn pidfd(&self) -> Option<OwnedFd> {
        let pidfd = rustix::process::pidfd_open(raw(self.pid), PidfdFlags::empty()).ok()?;
        (Self::of(self.pid)?.start == self.start).then_some(pidfd)
    }

    /// Sends a signal to this process if it is still there; whether it was sent.
    pub fn signal(&self, signal: Signal) -> bool {
        self.pidfd()
            .is_some_and(|pidfd| rustix::process::pidfd_send_signal(pidfd, signal).is_ok())
    }

    /// Stops it (`SIGSTOP`) if it is still there, and returns once it is seen stopped; whether it was.
    pub fn halt(&self) -> bool {
        let stopped = || matches!(Self::of(self.pid)?.state, 'T' | 't').then_some(());
        self.signal(Signal::STOP) && until(ms(2_000), stopped).is_some()
    }

    /// Waits until it has ended (reaped or not); `false` if it lives at the deadline.
    pub fn wait_gone(&self, deadline: Instant) -> bool {
        self.pidfd().is_none_or(|pidfd| ended_by(&pidfd, Some(deadline)))
    }
}

/// Every process of this host, in the order of their ids.
pub fn processes() -> Vec<Proc> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut all: Vec<Proc> = pids.filter_map(Proc::of).collect();
    all.sort_by_key(|process| process.pid);
    all
}

/// `roots` and the ids of all that descend from them.
pub(crate) fn descendants(all: &[Proc], roots: &[u32]) -> BTreeSet<u32> {
    let mut family: BTreeSet<u32> = roots.iter().copied().collect();
    loop {
        let before = family.len();
        family.extend(all.iter().filter(|p| family.contains(&p.ppid)).map(|p| p.pid).collect::<Vec<_>>());
        if family.len() == before {
            return family;
        }
    }
}

/// A TCP or UDP socket held by an observed process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    /// Who holds it.
    pub pid: u32,
    /// What it is doing.
    pub state: SocketState,
    /// Its own address.
    pub local: SocketAddr,
    /// The other end; unspecified while there is none.
    pub remote: SocketAddr,
}

/// What a socket is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketState {
    /// Accepts TCP connections.
    Listen,
    /// Carries a TCP connection.
    Established,
    /// A UDP socket.
    Datagram,
    /// Another TCP state, by the kernel's number.
    Other(u8),
}

/// How many bytes lie unread at the end `local` of the TCP connection from `remote`, if there is one.
pub fn unread(local: SocketAddr, remote: SocketAddr) -> Option<usize> {
    // A socket of both families writes IPv4 addresses as IPv6.
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let is_meant = |(_, _, one, other)| (plain(one), plain(other)) == (local, remote);
    ["tcp", "tcp6"].into_iter().find_map(|table| {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).ok()?;
        let line = text.lines().find(|line| parse_socket(line).is_some_and(is_meant))?;
        let (_, received) = line.split_ascii_whitespace().nth(4)?.split_once(':')?;
        usize::from_str_radix(received, 16).ok()
    })
}

/// The TCP and UDP sockets that `processes` hold.
pub fn sockets(processes: &[Proc]) -> Vec<Socket> {
    let mut found = Vec::new();
    for process in processes {
        let inodes: BTreeSet<u64> = process
            .descriptors()
            .iter()
            .filter_map(|(_, target)| {
                target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
            })
            .collect();
        if inodes.is_empty() {
            continue;
        }
        for table in ["tcp", "tcp6", "udp", "udp6"] {
            let Ok(text) = std::fs::read_to_string(format!("/proc/{}/net/{table}", process.pid)) else {
                continue;
            };
            for (inode, state, local, remote) in text.lines().skip(1).filter_map(parse_socket) {
                let state = match state {
                    _ if table.starts_with("udp") => SocketState::Datagram,
                    0x0A => SocketState::Listen,
                    0x01 => SocketState::Established,
                    other => SocketState::Other(other),
                };
                if inodes.contains(&inode) {
                    found.push(Socket { pid: process.pid, state, local, remote });
                }
            }
        }
    }
    found.sort();
    found
}

fn parse_socket(line: &str) -> Option<(u64, u8, SocketAddr, SocketAddr)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let state = u8::from_str_radix(fields.get(3)?, 16).ok()?;
    Some((
        fields.get(9)?.parse().ok()?,
        state,
        parse_address(fields.get(1)?)?,
        parse_address(fields.get(2)?)?,
    ))
}

/// An address of `/proc/net`: words of 32 bits in the host's byte order, in hexadecimal.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..address.len() / 8)
        .map(|i| Some(u32::from_str_radix(address.get(i * 8..i * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    let bytes = words?.concat();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_hold_anything() {
        let rest = "S 1 20 30 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2 3";
        for name in ["sh", "a b", "x) Z 9 9 (y", "(", ""] {
            let process = Proc::parse(format!("42 ({name}) {rest}").as_bytes()).unwrap();
            assert_eq!((process.comm.as_str(), process.state), (name, 'S'));
            assert_eq!((process.pid, process.ppid, process.pgrp, process.session), (42, 1, 20, 30));
            assert_eq!(process.start, 4711);
        }
        assert_eq!(Proc::parse(b"42 (sh) S 1"), None);
    }

    #[test]
    fn addresses_of_the_kernels_tables_are_read() {
        if cfg!(target_endian = "little") {
            assert_eq!(parse_address("0100007F:1F90"), "127.0.0.1:8080".parse().ok());
            assert_eq!(parse_address("00000000000000000000000001000000:1F90"), "[::1]:8080".parse().ok());
            assert_eq!(parse_address("00000000:0000"), "0.0.0.0:0".parse().ok());
        }
        for bad in ["", "0100007F", "0100007G:0000", "0100007F:10000", "01007F:0000"] {
            assert_eq!(parse_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_number_given_to_another_process_is_not_signalled() {
        let own = Proc::of(std::process::id()).unwrap();
        let earlier = Proc { start: own.start - 1, ..own };
        assert!(!earlier.signal(Signal::KILL));
        assert!(earlier.wait_gone(ms(1)));
    }
}
