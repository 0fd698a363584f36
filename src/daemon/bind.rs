//! The listeners of a daemon.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::sync::{Mutex, MutexGuard, PoisonError};

use local_daemon_proto::registration::{LoopbackHost, LoopbackUrl};
use tokio::net::{TcpListener, TcpSocket};

use super::Error;
use crate::loopback::is_missing_family;

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

/// Binds a port on loopback: of IPv4 if this host has it (REG-5), and if `both`, of IPv6 too (BROW-36).
///
/// # Errors
/// Fails if no port can be bound, or if this host cannot reach it.
pub(super) async fn bind(both: bool) -> Result<Bound, Error> {
    let mut ports_left = if both { MAX_PORTS_TRIED } else { 1 };
    loop {
        ports_left -= 1;
        let (listener, host) = bind_first().await.map_err(Error::Listen)?;
        let address = listener.local_addr().map_err(Error::Listen)?;
        check_loopback(address).map_err(Error::NoLoopback)?;
        let port = NonZeroU16::new(address.port());
        let port = port.ok_or_else(|| Error::Listen(ErrorKind::AddrNotAvailable.into()))?;
        let mut listeners = vec![listener];
        let at = |address: IpAddr| SocketAddr::new(address, port.get());
        let hold = if !both {
            Hold::Taken
        } else if host == LoopbackHost::V6 {
            Hold::Missing(at(Ipv4Addr::LOCALHOST.into()))
        } else {
            match bind_at(Ipv6Addr::LOCALHOST, port.get()).await {
                Ok(second) => {
                    listeners.push(second);
                    Hold::Listener
                }
                Err(error) if is_missing_family(&error) => Hold::Missing(at(Ipv6Addr::LOCALHOST.into())),
                Err(error) if error.kind() == ErrorKind::AddrInUse && ports_left > 0 => continue,
                Err(error) => {
                    tracing::warn!(%error, "the port cannot be bound on [::1], so the daemon's page has no host of its own");
                    Hold::Taken
                }
            }
        };
        return Ok(Bound {
            listeners,
            url: LoopbackUrl::new(host, port),
            other_family: OtherFamily::new(hold),
        });
    }
}

/// Binds a free port on loopback (PUB-1): of IPv4 if this host has it (REG-5).
async fn bind_first() -> io::Result<(TcpListener, LoopbackHost)> {
    match bind_at(Ipv4Addr::LOCALHOST, 0).await {
        Ok(listener) => Ok((listener, LoopbackHost::V4)),
        Err(v4) if is_missing_family(&v4) => {
            let v6 = bind_at(Ipv6Addr::LOCALHOST, 0).await;
            Ok((v6.map_err(|_| v4)?, LoopbackHost::V6))
        }
        Err(v4) => Err(v4),
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
