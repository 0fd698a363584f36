//! Chapter 10: connections on which no request has authenticated yet, and their users.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::fault::broken;

/// A connection on which no request has authenticated yet.
#[derive(Debug)]
struct Stranger {
    number: u64,
    /// The user at the other end, if the system reports it.
    user: Option<u32>,
    has_whole_head: bool,
    stream: Arc<TcpStream>,
}

/// All of them, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    all: Vec<Stranger>,
    last: u64,
}

impl Strangers {
    /// Adds a new connection, and returns its number.
    pub(super) fn enter(&mut self, stream: &Arc<TcpStream>, user: Option<u32>) -> u64 {
        self.last += 1;
        let stream = Arc::clone(stream);
        self.all.push(Stranger { number: self.last, user, has_whole_head: false, stream });
        self.last
    }

    /// Notes that a connection has sent a whole header section.
    pub(super) fn note_head(&mut self, number: u64) {
        if let Some(stranger) = self.all.iter_mut().find(|stranger| stranger.number == number) {
            stranger.has_whole_head = true;
        }
    }

    /// Whether a connection is among them.
    pub(super) fn contain(&self, number: u64) -> bool {
        self.all.iter().any(|stranger| stranger.number == number)
    }

    /// Notes that a connection has ended, or that a request on it has authenticated.
    pub(super) fn leave(&mut self, number: u64) {
        self.all.retain(|stranger| stranger.number != number);
    }

    /// Closes a connection of a user other than `own`: the oldest of the user that has most, and first one without a whole header
    /// section. Returns `false` if there is none.
    pub(super) fn close_one(&mut self, own: u32) -> bool {
        let others = || self.all.iter().filter(|stranger| stranger.user != Some(own));
        let mut counts: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        others().for_each(|stranger| *counts.entry(stranger.user).or_default() += 1);
        let Some((most, _)) = counts.iter().max_by_key(|(_, count)| **count) else {
            return false;
        };
        let of_it = others().filter(|stranger| stranger.user == *most);
        let oldest = of_it.min_by_key(|stranger| (stranger.has_whole_head, stranger.number));
        let Some(number) = oldest.map(|stranger| stranger.number) else {
            return false;
        };
        for closed in self.all.extract_if(.., |stranger| stranger.number == number) {
            // Its thread sees the end and lets go of it.
            let _ = closed.stream.shutdown(Shutdown::Both);
            if broken("PER-47.each-eviction") {
                eprintln!("closed a connection of another user");
            }
        }
        true
    }
}

/// Asks the system for the users of connections (`sock_diag(7)`).
pub(super) struct Users(OwnedFd);

impl Users {
    pub(super) fn new() -> io::Result<Self> {
        let (netlink, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(netlink, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
        Ok(Self(socket))
    }

    /// The user at the other end of a connection.
    pub(super) fn of(&self, stream: &TcpStream, peer: SocketAddr) -> Option<u32> {
        const BY_FAMILY: u16 = 20;
        const REQUEST: u16 = 1;
        const TCP: u8 = 6;
        let own = stream.local_addr().ok()?;
        let family = if peer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let address = |address: IpAddr| match address {
            IpAddr::V4(address) => [&address.octets()[..], &[0; 12]].concat(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        // It asks for the socket at the other end, whose own address is this end's peer.
        let asked = [
            &72_u32.to_ne_bytes()[..],
            &BY_FAMILY.to_ne_bytes(),
            &REQUEST.to_ne_bytes(),
            &[0; 8],
            &[u8::try_from(family.as_raw()).ok()?, TCP, 0, 0],
            &u32::MAX.to_ne_bytes(),
            &peer.port().to_be_bytes(),
            &own.port().to_be_bytes(),
            &address(peer.ip()),
            &address(own.ip()),
            &[0; 4],
            &[0xff; 8],
        ]
        .concat();
        rustix::net::send(&self.0, &asked, SendFlags::empty()).ok()?;
        let mut answer = [0; 512];
        let (length, _) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty()).ok()?;
        let answer = answer.get(..length)?;
        let number = |place: usize| Some(u32::from_ne_bytes(answer.get(place..place + 4)?.try_into().ok()?));
        let is_answer = answer.get(4..6)? == BY_FAMILY.to_ne_bytes();
        // The system reports root for a socket that its process has closed.
        let has_inode = number(84)? != 0;
        number(80).filter(|_| is_answer && has_inode)
    }
}
