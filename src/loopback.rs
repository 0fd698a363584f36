//! What this process can do on loopback. A process that cannot connect to its own ports learns nothing of another's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::exchange::{ExchangeError, Wire};
use crate::platform;

/// How long a connection to a port of this process's own may take.
const OWN_BOUND: Duration = Duration::from_millis(250);

/// Checks that this process can listen and connect (CONN-50).
///
/// # Errors
/// Fails with the first of these that it cannot do. A host without IPv4 is not checked.
pub(crate) fn can_listen() -> Result<(), ExchangeError> {
    let Some(listener) = checked(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))? else {
        return Ok(());
    };
    reach(listener)
}

/// Checks that this process can connect (CONN-38). This is cheaper than [`can_listen`]: nothing listens at the port that it
/// connects to, and a refusal is an answer.
///
/// # Errors
/// Fails if no port can be reserved, or not even a refusal comes. A host without IPv4 is not checked.
pub(crate) fn can_connect() -> Result<(), ExchangeError> {
    let Some((_reserved, address)) = checked(platform::reserve_port())? else {
        return Ok(());
    };
    match Wire::connect(address, Instant::now() + OWN_BOUND) {
        Ok(_) | Err(ExchangeError::Refused) => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// Checks that a refusal means what it says: a listener of this process's own is not refused (CONN-52).
///
/// # Errors
/// Fails if that cannot be reached either. A process that cannot listen learns nothing.
pub(crate) fn can_be_reached() -> Result<(), ExchangeError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_or(Ok(()), reach)
}

fn reach(listener: TcpListener) -> Result<(), ExchangeError> {
    let address = listener.local_addr().map_err(|error| ExchangeError::Unreachable { error })?;
    let wire = Wire::connect(address, Instant::now() + OWN_BOUND)?;
    // In this order the connection is reset, and keeps no port.
    drop(listener);
    drop(wire);
    Ok(())
}

/// Returns what was bound; `None` if this host has no IPv4 loopback.
fn checked<T>(bound: io::Result<T>) -> Result<Option<T>, ExchangeError> {
    match bound {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if is_missing_family(&error) => Ok(None),
        Err(error) => Err(ExchangeError::Unreachable { error }),
    }
}

/// Whether this host has no loopback address of this family at all.
pub(crate) fn is_absent(address: SocketAddr) -> bool {
    TcpListener::bind((address.ip(), 0)).is_err_and(|error| is_missing_family(&error))
}

/// Whether a failed bind shows that this host has no such loopback address (REG-5), and not that no port is left.
pub(crate) fn is_missing_family(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}
