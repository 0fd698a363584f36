//! The listeners of a daemon.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::sync::{Mutex, MutexGuard, PoisonError};

use local_daemon_proto::registration::{LoopbackHost, LoopbackUrl};
use tokio::net::{TcpListener, TcpSocket};

use super::{Error, ListenerErrorKind};
use crate::loopback::{is_absent, is_missing_family};
use crate::platform::is_tcp_listener;

/// How many ports are tried until one is free on both address families.
const MAX_PORTS_TRIED: usize = 20;

/// Where a daemon listens.
pub(super) struct Bound {
    /// One, or one for each address family at the same port.
    pub(super) listeners: Vec<TcpListener>,
    /// The address for the record.
    pub(super) url: LoopbackUrl,
    /// The port on the address family that the record does not name.
    pub(super) other_family: OtherFamily,
}

/// Whether another process can listen at the daemon's port on the address family that the record does not name (BROW-36).
#[derive(Debug)]
pub(super) struct OtherFamily(Mutex<Hold>);

#[derive(Debug)]
enum Hold {
    /// The daemon listens there.
    Listener,
    /// This host does not have the family.
    Missing(SocketAddr),
    /// The family was missing when the daemon started. The port is bound now, and refuses connections.
    Reserved { _socket: TcpSocket },
    /// Another process may have the port there.
    Taken,
}

impl OtherFamily {
    fn new(hold: Hold) -> Self {
        Self(Mutex::new(hold))
    }

    /// Whether no other process could listen there when [`try_hold`](Self::try_hold) last ran.
    pub(super) fn is_held(&self) -> bool {
        !matches!(*self.lock(), Hold::Taken)
    }

    /// Binds the port if the family was missing and is not any more. Returns whether no other process can listen there.
    pub(super) fn try_hold(&self) -> bool {
        let mut hold = self.lock();
        if let Hold::Missing(address) = *hold {
            match reserve(address) {
                Ok(socket) => *hold = Hold::Reserved { _socket: socket },
                Err(error) if is_missing_family(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, %address, "the port cannot be bound, so the daemon's page has no host of its own");
                    *hold = Hold::Taken;
                }
            }
        }
        !matches!(*hold, Hold::Taken)
    }

    fn lock(&self) -> MutexGuard<'_, Hold> {
        // No holder of this lock panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds a port without listening: a browser that connects is refused, and goes to the other family.
fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(address)?;
    Ok(socket)
}

/// Binds a port on loopback: of IPv4 if this host has it (REG-5), and if `both`, of IPv6 too (BROW-36). `preferred` is tried
/// first, unless it is 0.
///
/// # Errors
/// Fails if no port can be bound, or if this host cannot reach it.
pub(super) async fn bind(both: bool, mut preferred: u16) -> Result<Bound, Error> {
    let mut ports_left = if both { MAX_PORTS_TRIED } else { 1 };
    loop {
        let listener = match bind_first(preferred).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse && preferred != 0 => {
                preferred = 0;
                continue;
            }
            bound => bound.map_err(Error::Listen)?,
        };
        ports_left -= 1;
        let address = listener.local_addr().map_err(Error::Listen)?;
        let url = url_of(address)?;
        let mut listeners = vec![listener];
        let hold = if both {
            listen_on_other(address, &mut listeners).await
        } else {
            Ok(Hold::Taken)
        };
        let hold = match hold {
            Ok(hold) => hold,
            Err(error) if error.kind() == ErrorKind::AddrInUse && ports_left > 0 => {
                preferred = 0;
                continue;
            }
            Err(error) => not_held(&error),
        };
        return Ok(Bound { listeners, url, other_family: OtherFamily::new(hold) });
    }
}

/// Takes listeners that exist already. If `both`, the port is bound on the family that they leave out (BROW-36).
///
/// # Errors
/// Fails if one of them cannot be a daemon's, or if this host cannot reach it.
pub(super) async fn adopt(both: bool, given: Vec<std::net::TcpListener>) -> Result<Bound, Error> {
    let mut addresses = Vec::new();
    let mut listeners = Vec::new();
    for listener in given {
        let address = listener.local_addr().map_err(Error::Listen)?;
        if !is_tcp_listener(&listener).map_err(Error::Listen)? {
            return Err(Error::Listener { address, kind: ListenerErrorKind::NotListening });
        }
        // Not every system has the option.
        if rustix::net::sockopt::socket_reuseport(&listener).unwrap_or(false) {
            return Err(Error::Listener { address, kind: ListenerErrorKind::Shared });
        }
        listener.set_nonblocking(true).map_err(Error::Listen)?;
        listeners.push(TcpListener::from_std(listener).map_err(Error::Listen)?);
        addresses.push(address);
    }
    let first = check_addresses(&addresses)?;
    let url = url_of(first)?;
    let hold = match addresses.len() {
        1 if both => listen_on_other(first, &mut listeners).await.unwrap_or_else(|error| not_held(&error)),
        1 => Hold::Taken,
        _ => Hold::Listener,
    };
    Ok(Bound { listeners, url, other_family: OtherFamily::new(hold) })
}

/// Takes the addresses of a server that listens by itself. If `both`, the port is held on the family that they leave out
/// (BROW-36).
///
/// # Errors
/// Fails if one of them cannot be a daemon's, or if this host cannot reach it.
pub(super) fn existing(both: bool, addresses: &[SocketAddr]) -> Result<Bound, Error> {
    let first = check_addresses(addresses)?;
    let url = url_of(first)?;
    let other_family = if addresses.len() > 1 {
        OtherFamily::new(Hold::Listener)
    } else if both {
        let other = OtherFamily::new(Hold::Missing(other_address(first)));
        other.try_hold();
        other
    } else {
        OtherFamily::new(Hold::Taken)
    };
    Ok(Bound { listeners: Vec::new(), url, other_family })
}

/// Returns the address for the record.
fn check_addresses(addresses: &[SocketAddr]) -> Result<SocketAddr, Error> {
    let none = || Error::Listen(ErrorKind::AddrNotAvailable.into());
    let first = *addresses.iter().min_by_key(|address| address.is_ipv6()).ok_or_else(none)?;
    for (place, address) in addresses.iter().enumerate() {
        let kind = if ![IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(&address.ip())
        {
            ListenerErrorKind::NotLoopback
        } else if address.port() != first.port() {
            ListenerErrorKind::OtherPort
        } else if addresses[..place].contains(address) {
            ListenerErrorKind::Repeated
        } else {
            continue;
        };
        return Err(Error::Listener { address: *address, kind });
    }
    // REG-5
    if first.is_ipv6() && !is_absent(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), first.port())) {
        return Err(Error::Listener { address: first, kind: ListenerErrorKind::NoIpv4 });
    }
    Ok(first)
}

fn url_of(address: SocketAddr) -> Result<LoopbackUrl, Error> {
    check_loopback(address).map_err(Error::NoLoopback)?;
    let host = if address.is_ipv4() { LoopbackHost::V4 } else { LoopbackHost::V6 };
    let port = NonZeroU16::new(address.port());
    let port = port.ok_or_else(|| Error::Listen(ErrorKind::AddrNotAvailable.into()))?;
    Ok(LoopbackUrl::new(host, port))
}

/// Returns the same port on the other family.
fn other_address(address: SocketAddr) -> SocketAddr {
    let other: IpAddr = if address.is_ipv4() {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    };
    SocketAddr::new(other, address.port())
}

async fn listen_on_other(address: SocketAddr, listeners: &mut Vec<TcpListener>) -> io::Result<Hold> {
    let other = other_address(address);
    match TcpListener::bind(other).await {
        Ok(second) => {
            listeners.push(second);
            Ok(Hold::Listener)
        }
        Err(error) if is_missing_family(&error) => Ok(Hold::Missing(other)),
        Err(error) => Err(error),
    }
}

fn not_held(error: &io::Error) -> Hold {
    tracing::warn!(%error, "the port cannot be bound on both families, so the daemon's page has no host of its own");
    Hold::Taken
}

/// Binds a port on loopback (PUB-1): of IPv4 if this host has it (REG-5).
async fn bind_first(port: u16) -> io::Result<TcpListener> {
    match bind_at(Ipv4Addr::LOCALHOST, port).await {
        Err(v4) if is_missing_family(&v4) => bind_at(Ipv6Addr::LOCALHOST, port).await.map_err(|v6| {
            // That the port is taken concerns the caller.
            if v6.kind() == ErrorKind::AddrInUse { v6 } else { v4 }
        }),
        bound => bound,
    }
}

/// Binds a port exclusively: without `SO_REUSEPORT` no other socket can share it (PUB-2).
async fn bind_at(address: impl Into<IpAddr>, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::new(address.into(), port)).await
}

/// Checks that this host can reach the daemon's address: without a loopback interface no client could ever ask the daemon.
/// The connect of a datagram socket sends nothing.
fn check_loopback(address: SocketAddr) -> io::Result<()> {
    let is_cut_off = |error: &io::Error| {
        matches!(
            error.kind(),
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::NetworkDown
        )
    };
    match UdpSocket::bind((address.ip(), 0)).and_then(|socket| socket.connect(address)) {
        Err(error) if is_cut_off(&error) => Err(error),
        _ => Ok(()),
    }
}
