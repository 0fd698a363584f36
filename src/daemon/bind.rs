//! The listeners of a daemon.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;

use local_daemon_proto::registration::{LoopbackHost, LoopbackUrl};
use tokio::net::TcpListener;

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
    /// Whether no other process can listen at the port on either address family (BROW-36).
    pub(super) is_exclusive: bool,
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
        let mut bound = Bound {
            listeners: vec![listener],
            url: LoopbackUrl::new(host, port),
            is_exclusive: host == LoopbackHost::V6,
        };
        if !both || bound.is_exclusive {
            return Ok(bound);
        }
        match bind_at(Ipv6Addr::LOCALHOST, port.get()).await {
            Ok(second) => {
                bound.listeners.push(second);
                bound.is_exclusive = true;
            }
            Err(error) if is_missing_family(&error) => bound.is_exclusive = true,
            Err(error) if error.kind() == ErrorKind::AddrInUse && ports_left > 0 => continue,
            Err(error) => {
                tracing::warn!(%error, "the port cannot be bound on [::1], so the daemon's page has no host of its own");
            }
        }
        return Ok(bound);
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
