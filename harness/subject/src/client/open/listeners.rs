//! Which user listens at which address of this machine, from the kernel's tables.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::fault::broken;

/// The state of a socket that listens.
const LISTEN: &str = "0A";

/// Returns another user who listens at an address to which a browser may resolve the host of a loopback origin.
pub(super) fn stranger_at(origin: &str) -> Option<u32> {
    let (scheme, rest) = origin.split_once("://")?;
    let default = if scheme == "https" { 443 } else { 80 };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (rest, default),
    };
    let addresses = addresses(host);
    let own = rustix::process::geteuid().as_raw();
    let listening = listening();
    let mut there = listening.iter().filter(|(address, at, uid)| {
        let reaches = address.is_unspecified() || addresses.contains(address);
        !addresses.is_empty() && reaches && *at == port && *uid != own
    });
    there.next().map(|(_, _, uid)| *uid).filter(|_| !broken("BROW-46.unasked"))
}

/// Returns the loopback addresses to which a browser may resolve a host.
fn addresses(host: &str) -> Vec<IpAddr> {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    if host == "localhost" || host.ends_with(".localhost") {
        return match () {
            () if broken("BROW-46.addresses-alone") => Vec::new(),
            () if broken("BROW-46.first-family") => vec![v4],
            () => vec![v4, v6],
        };
    }
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|address| address.to_canonical());
    address.into_iter().filter(IpAddr::is_loopback).collect()
}

/// Returns every address at which a process listens, with its port and user.
fn listening() -> Vec<(IpAddr, u16, u32)> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).filter_map(socket).collect()
}

/// Parses a line of a table; `None` unless its socket listens.
fn socket(line: &str) -> Option<(IpAddr, u16, u32)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if *fields.get(3)? != LISTEN {
        return None;
    }
    // Each four bytes of it are a number in this machine's byte order.
    let words = (0..address.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(address.get(at..at + 8)?, 16).ok());
    let bytes: Vec<u8> =
        words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
    };
    Some((address, u16::from_str_radix(port, 16).ok()?, fields.get(7)?.parse().ok()?))
}
