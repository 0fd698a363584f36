//! Chapter 10: what is checked about each request before any route sees it.

pub(crate) mod faults;

use std::iter;
use std::net::Ipv6Addr;

use crate::answer::{INVALID, MISDIRECTED, ORIGIN, Refusal};
use crate::credential::Credential;
use crate::fault::broken;
use crate::handshake::{self, Claim};
use crate::request::Request;
use crate::streams;

/// The hosts of the daemon other than the page host.
pub(super) const HOSTS: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// Whether a name is one that the daemon has.
fn is_own_name(name: &[u8], port: u16, page: Option<&str>) -> bool {
    let mut hosts = HOSTS.into_iter().chain(page);
    let is_own = hosts.any(|host| format!("{host}:{port}").as_bytes() == name);
    faults::own_name(name, port, page).unwrap_or(is_own)
}

/// The `Host` of the request, if it is one of the daemon's names, the host of its `page` among them.
pub(super) fn host<'a>(
    request: &'a Request,
    port: u16,
    page: Option<&str>,
    served: bool,
) -> Result<&'a [u8], Refusal> {
    // A name that a page may use proves nothing.
    let proves =
        request.path == handshake::PATH && !broken("BROW-37.proves") && !broken("BROW-37.unauthorized");
    let page = page.filter(|_| !proves);
    if let Some(host) = faults::unjudged_host(request, served) {
        return Ok(host);
    }
    let mut hosts = request.headers("Host");
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(if broken("PER-5.misdirected") { MISDIRECTED } else { INVALID });
    };
    let target = request.authority.as_deref().map(str::as_bytes).filter(|_| !broken("PER-6.unread"));
    let mut names = iter::once(host).chain(target);
    if !names.clone().all(is_host) && !broken("PER-5.unparsed")
        || broken("PER-3.invalid") && !is_own_name(host, port, page)
    {
        return Err(INVALID);
    }
    let is_foreign = request.is_of_another_scheme && !broken("PER-6.any-scheme") && !broken("PER-6.unread");
    if is_foreign && broken("PER-6.invalid-scheme") {
        return Err(INVALID);
    }
    if is_foreign || !names.all(|name| is_own_name(name, port, page)) {
        Err(MISDIRECTED)
    } else {
        Ok(host)
    }
}

/// Whether a text is a host with an optional port as RFC 3986 writes them, and the host is not empty.
fn is_host(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else {
        return false;
    };
    let (host, port) = match name.rsplit_once(':') {
        // The colon may be one of an address in brackets.
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (name, ""),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
    let is_address = |address: &str| match address.strip_prefix(['v', 'V']) {
        Some(future) => future.split_once('.').is_some_and(|(version, rest)| {
            !version.is_empty()
                && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !rest.is_empty()
                && rest.bytes().all(|byte| is_plain(byte) || byte == b':')
        }),
        None => address.parse::<Ipv6Addr>().is_ok(),
    };
    let is_name = |name: &str| {
        let mut parts = name.split('%');
        let first = parts.next().unwrap_or_default();
        let is_encoded = |part: &str| {
            let (digits, rest) = part.as_bytes().split_at(part.len().min(2));
            digits.len() == 2
                && digits.iter().all(u8::is_ascii_hexdigit)
                && rest.iter().copied().all(is_plain)
        };
        !name.is_empty() && first.bytes().all(is_plain) && parts.all(is_encoded)
    };
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    literal.map_or_else(|| is_name(host), is_address) && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a name has the form of a page host.
pub(super) fn is_page_host(name: &str) -> bool {
    let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
    host.strip_suffix(".localhost").is_some_and(|digits| {
        digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// What an `Origin` is to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Absent,
    Same,
    Listed(String),
}

/// Judges the `Origin` of a request to `host`.
pub(super) fn origin(
    request: &Request,
    host: &[u8],
    listed: impl FnOnce(&str) -> bool,
) -> Result<Origin, Refusal> {
    let mut origins = request.headers("Origin");
    match (origins.next(), origins.next()) {
        (None, _) => Ok(Origin::Absent),
        (Some(origin), Some(_)) if broken("PER-11.first-of-two") => match std::str::from_utf8(origin) {
            Ok(origin) if listed(origin) => Ok(Origin::Listed(origin.to_owned())),
            _ => Err(ORIGIN),
        },
        (Some(origin), None) if origin.strip_prefix(b"http://") == Some(host) => Ok(Origin::Same),
        (Some(origin), None) => match std::str::from_utf8(origin) {
            Ok(origin) if (is_origin(origin) || broken("PER-10.any-case")) && listed(origin) => {
                Ok(Origin::Listed(origin.to_owned()))
            }
            _ => Err(ORIGIN),
        },
        _ => Err(ORIGIN),
    }
}

/// The origin that may read the answer, whatever the answer is (PER-13).
pub(super) fn reader(request: &Request, listed: impl FnOnce(&str) -> bool) -> Option<String> {
    match origin(request, b"", listed) {
        Ok(Origin::Listed(origin)) => Some(origin),
        _ => None,
    }
}

/// Whether the request asks what a page may send.
pub(super) fn is_preflight(request: &Request) -> bool {
    request.method == "OPTIONS" && request.headers("Access-Control-Request-Method").next().is_some()
}

/// How a request showed that it may come in.
pub(super) enum Pass {
    Bearer,
    /// Opens the handshake alone.
    Proof(Claim),
    /// The page token of this id.
    Page(String),
    /// Nothing yet: the route judges the ticket that it is about to be given.
    Ticket,
}

/// Judges the authentication of a request.
pub(super) fn authenticate(request: &Request, authority: &str, credential: &Credential) -> Option<Pass> {
    if let Some(pass) = faults::pass(request, credential) {
        return Some(pass);
    }
    let mut given = request.headers("Authorization");
    let header = match (given.next(), given.next()) {
        (None, _) => None,
        (Some(header), None) => Some(header),
        _ => return None,
    };
    let mut tokens = request.parameters("token");
    let token = tokens.next();
    if token.is_some() {
        let is_stream = request.method == "GET" && request.path == streams::PATH;
        let right = token.is_some_and(|token| credential.is(token.as_bytes())) && tokens.next().is_none();
        if !is_stream || !right {
            return None;
        }
    }
    let Some(header) = header else {
        return token.map(|_| Pass::Bearer);
    };
    if let Some((b"bearer", b' ')) = header
        .get(..7)
        .map(|start| (start[..6].to_ascii_lowercase(), start[6]))
        .as_ref()
        .map(|(scheme, space)| (scheme.as_slice(), *space))
    {
        // After one space or more.
        let spaces =
            header[7..].iter().take_while(|byte| **byte == b' ' && !broken("HS-5.one-space")).count();
        return handshake::bears(credential, &header[7 + spaces..]).then_some(Pass::Bearer);
    }
    if header.eq_ignore_ascii_case(b"bearer") && broken("HS-7.empty") {
        return Some(Pass::Bearer);
    }
    let claim = Claim::parse(std::str::from_utf8(header).ok()?)?;
    let addressed = request.header("Host").filter(|_| broken("HS-20.as-addressed"));
    let holds =
        claim.holds(credential, authority) || addressed.is_some_and(|host| claim.holds(credential, host));
    let its_own = request.path == handshake::PATH && request.method == "GET";
    (holds && (its_own || broken("HS-23.everywhere"))).then_some(Pass::Proof(claim))
}

/// Whether a text is one serialised origin, as it may stand on the list.
pub(super) fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let scheme_good = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
        && (!["file", "ftp", "ws", "wss"].contains(&scheme) || broken("PER-40.any-scheme"));
    let (host, port) = match rest.rsplit_once(':') {
        // The colon may be one of an address in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let default = match scheme {
        "http" => Some("80"),
        "https" => Some("443"),
        _ => None,
    };
    let port_good = port.is_none_or(|port| {
        let digits =
            !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        digits && port.parse::<u16>().is_ok() && Some(port) != default
    });
    scheme_good && port_good && is_serialised_host(host)
}

/// Whether a host is written as a browser writes it.
fn is_serialised_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        // What stands for an IPv4 address is written with dots here, and by no browser.
        return address.parse::<Ipv6Addr>().is_ok_and(|parsed| {
            let [.., high, low] = parsed.segments();
            match parsed.to_ipv4_mapped() {
                Some(_) => address == format!("::ffff:{high:x}:{low:x}"),
                None => address == parsed.to_string(),
            }
        });
    }
    let labels_good = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        });
    // A host whose last label is a number is an address, and there is one way to write it.
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let numeric =
        last.bytes().all(|byte| byte.is_ascii_digit()) || last.strip_prefix("0x").is_some_and(hexadecimal);
    labels_good
        && (!numeric || host.parse::<std::net::Ipv4Addr>().is_ok_and(|parsed| parsed.to_string() == host))
}
