//! Which user listens where a browser connects for a loopback origin.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::path::Path;

use local_daemon::perimeter::Origin;
use rustix::process::geteuid;

use super::note;
use crate::error::Error;

/// The TCP sockets of this network namespace, one file per address family.
const SOCKETS: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Where a browser may connect for a loopback origin.
struct Place {
    addresses: Vec<IpAddr>,
    port: u16,
}

impl Place {
    /// Returns `None` for an origin that is not on loopback, or not one of HTTP.
    fn of(origin: &Origin) -> Option<Self> {
        Self::by(origin, |_, _| Vec::new())
    }

    /// The same, but other names than `localhost` are resolved: `/etc/hosts` may give the machine's own name a loopback
    /// address.
    fn resolve(origin: &Origin) -> Option<Self> {
        // A browser cannot connect to a name that does not resolve either.
        Self::by(origin, |host, port| match (host, port).to_socket_addrs() {
            Ok(addresses) => addresses.map(|address| address.ip().to_canonical()).collect(),
            Err(_) => Vec::new(),
        })
    }

    fn by(origin: &Origin, resolve: impl FnOnce(&str, u16) -> Vec<IpAddr>) -> Option<Self> {
        let (scheme, rest) = origin.as_str().split_once("://")?;
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        // The colons of an IPv6 address are before its closing bracket.
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (rest, default),
        };
        let addresses = if host == "localhost" || host.ends_with(".localhost") {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        } else if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            vec![match address.to_canonical() {
                // The unspecified address is this host too.
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
                address if address.is_loopback() => address,
                _ => return None,
            }]
        } else {
            resolve(host, port)
        };
        addresses.iter().any(IpAddr::is_loopback).then_some(())?;
        Some(Self { addresses, port })
    }

    /// Whether a socket accepts connections to this place. One at the unspecified IPv6 address may accept those of IPv4 too.
    fn is_served_by(&self, listener: &Socket) -> bool {
        let takes = |address: &IpAddr| match listener.address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.is_ipv4(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
            own => own == *address,
        };
        listener.port == self.port && self.addresses.iter().any(takes)
    }
}

/// A TCP socket.
#[derive(PartialEq, Eq, Debug)]
struct Socket {
    address: IpAddr,
    port: u16,
    uid: u32,
    listens: bool,
}

impl Socket {
    /// Parses a line of `/proc/net/tcp` or `tcp6`.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, uid, ..] = *fields.as_slice() else {
            return None;
        };
        let (address, port) = local.split_once(':')?;
        // Words of 32 bits in this host's byte order, whose bytes are in network order.
        let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
        let address: IpAddr = match address.len() {
            8 => word(0)?.into(),
            32 => {
                let words = [word(0)?, word(8)?, word(16)?, word(24)?];
                <[u8; 16]>::try_from(words.concat()).ok()?.into()
            }
            _ => return None,
        };
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(Self {
            address: address.to_canonical(),
            port,
            uid: uid.parse().ok()?,
            listens: state == "0A",
        })
    }
}

/// Whether a browser may connect to either address family for this origin, so that any user may listen at the other one.
pub(super) fn is_ambiguous(origin: &Origin) -> bool {
    Place::of(origin).is_some_and(|place| place.addresses.len() > 1)
}

/// Checks that no other user listens where a browser may connect for this origin (BROW-46). On systems other than Linux this
/// prints a warning instead.
///
/// # Errors
/// Fails if another user does, or if the sockets cannot be read.
pub(super) fn check_listeners(origin: &Origin) -> Result<(), Error> {
    let Some(place) = Place::resolve(origin) else {
        return Ok(());
    };
    if !cfg!(target_os = "linux") {
        note(&format!(
            "locald: it was not checked whether another user listens at {origin}, who would get the ticket"
        ));
        return Ok(());
    }
    let own = geteuid().as_raw();
    let listeners = listeners(&SOCKETS.map(Path::new))?;
    match listeners.into_iter().find(|listener| place.is_served_by(listener) && listener.uid != own) {
        Some(Socket { address, port, uid, .. }) => {
            Err(Error::TakenPort { origin: origin.clone(), address: (address, port).into(), uid })
        }
        None => Ok(()),
    }
}

fn listeners(files: &[&Path; 2]) -> Result<Vec<Socket>, Error> {
    let mut listeners = Vec::new();
    for path in files {
        let error = |why: String| Error::Listeners { path: path.to_path_buf(), why };
        let text = match fs::read_to_string(path) {
            // A system without IPv6 has no such file.
            Err(missing) if path == &files[1] && missing.kind() == ErrorKind::NotFound => continue,
            text => text.map_err(|source| error(source.to_string()))?,
        };
        for line in text.lines().skip(1) {
            let socket = Socket::parse(line).ok_or_else(|| error(format!("{line:?} is not a socket")))?;
            listeners.extend(Some(socket).filter(|socket| socket.listens));
        }
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn place(origin: &str) -> Option<(Vec<String>, u16)> {
        let place = Place::of(&origin.parse().unwrap())?;
        Some((place.addresses.iter().map(ToString::to_string).collect(), place.port))
    }

    #[test]
    fn a_loopback_origin_is_known_by_its_host() {
        let both = ["127.0.0.1", "::1"];
        for (origin, addresses, port) in [
            ("http://localhost:5173", &both[..], 5173),
            ("https://app.localhost", &both, 443),
            ("http://127.0.0.1:5173", &both[..1], 5173),
            ("http://127.0.0.1", &both[..1], 80),
            ("http://127.0.0.2:1", &["127.0.0.2"], 1),
            ("http://[::1]:5173", &both[1..], 5173),
            ("http://[::1]", &both[1..], 80),
            ("http://0.0.0.0:8080", &both[..1], 8080),
            ("http://[::]:8080", &both[1..], 8080),
            ("http://[::ffff:7f00:1]:8080", &both[..1], 8080),
        ] {
            let expected = addresses.iter().map(ToString::to_string).collect();
            assert_eq!(place(origin), Some((expected, port)), "{origin}");
        }
        for origin in [
            "https://app.example",
            "http://10.0.0.1:80801",
            "app://localhost",
            "http://notlocalhost",
        ] {
            if let Ok(origin) = origin.parse() {
                assert!(Place::of(&origin).is_none(), "{origin}");
            }
        }
        let resolved = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            let origin: Origin = "http://my-machine:3000".parse().unwrap();
            Place::by(&origin, |_, _| addresses).map(|place| place.addresses.len())
        };
        assert_eq!(resolved(&["127.0.1.1"]), Some(1));
        assert_eq!(resolved(&["192.0.2.1", "::1"]), Some(2));
        assert_eq!(resolved(&["192.0.2.1"]), None);
        assert_eq!(resolved(&[]), None);
        assert!(is_ambiguous(&"http://localhost:1".parse().unwrap()));
        assert!(!is_ambiguous(&"http://127.0.0.1:1".parse().unwrap()));
    }

    #[test]
    fn a_listener_is_known_by_its_line() {
        let line = |local: &str, state: &str| {
            format!(
                "   1: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 1"
            )
        };
        let hex = |address: &str| -> String {
            let bytes = match address.parse::<IpAddr>().unwrap() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let word = |word: &[u8]| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap()));
            bytes.chunks(4).map(word).collect::<Vec<_>>().concat()
        };
        for (text, shown) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("::1", "::1"),
            ("::", "::"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
        ] {
            let seen = Socket::parse(&line(&format!("{}:1435", hex(text)), "0A")).unwrap();
            assert_eq!((seen.address.to_string(), seen.port, seen.uid), (shown.to_owned(), 5173, 1000));
        }
        assert!(!Socket::parse(&line("0100007F:1435", "01")).unwrap().listens);
        for bad in [
            "",
            "x",
            &line("0100007F", "0A"),
            &line("0100007:1435", "0A"),
            &line("0100007F:14350", "0A"),
        ] {
            assert_eq!(Socket::parse(bad), None, "{bad}");
        }
        let at =
            |address: &str| Socket { address: address.parse().unwrap(), port: 5173, uid: 1, listens: true };
        let taken =
            |origin: &str, address| Place::of(&origin.parse().unwrap()).unwrap().is_served_by(&at(address));
        for (address, is_taken) in [
            ("127.0.0.1", [true, true, false]),
            ("::1", [true, false, true]),
            ("0.0.0.0", [true, true, false]),
            ("::", [true, true, true]),
            ("127.0.0.2", [false, false, false]),
            ("10.0.0.1", [false, false, false]),
        ] {
            let origins = [
                "http://localhost:5173",
                "http://127.0.0.1:5173",
                "http://[::1]:5173",
            ];
            assert_eq!(origins.map(|origin| taken(origin, address)), is_taken, "{address}");
            assert!(!taken("http://localhost:5174", address));
        }
    }

    #[test]
    fn sockets_that_cannot_be_read_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let [tcp, tcp6, missing] = ["tcp", "tcp6", "missing"].map(|name| dir.path().join(name));
        fs::write(&tcp, TCP).unwrap();
        fs::write(&tcp6, format!("{TCP}nonsense\n")).unwrap();
        assert_eq!(listeners(&[&tcp, &missing]).unwrap(), []);
        for files in [[&*missing, &tcp], [&tcp, &tcp6], [&tcp, dir.path()]] {
            let error = listeners(&files).unwrap_err();
            assert!(matches!(error, Error::Listeners { .. }), "{error}");
        }
    }
}
