//! Which web origins may call: exact, serialised ones.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::watch;

use super::request::parse_port;

/// An origin exactly as browsers serialise it: `scheme://host`, and the port where it is not the scheme's default.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin(String);

impl Origin {
    /// Returns the serialised origin.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Origin {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a text is not an [`Origin`] that can be listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseOriginError {
    /// Sandboxed frames, `data:` and `file:` pages of anybody all call themselves `null`.
    #[error("\"null\" is the origin of every sandboxed and every local page")]
    Null,
    /// A pattern.
    #[error("origins are listed one by one, without patterns")]
    Pattern,
    /// Upper case, which no browser sends.
    #[error("an origin is written in lower case")]
    UpperCase,
    /// The scheme of files or of connections, which no page has as its origin (PER-40).
    #[error("no page has an origin of the scheme file, ftp, ws or wss")]
    NoPage,
    /// No `scheme://`.
    #[error("an origin begins with its scheme, such as https://")]
    Scheme,
    /// User information.
    #[error("an origin holds no user name")]
    UserInfo,
    /// A path, query or fragment, be it one slash.
    #[error("an origin ends after its host and port, without a slash")]
    Path,
    /// A host that browsers would write in another way, or not at all.
    #[error("the host is not written as browsers write it")]
    Host,
    /// A port that is not 1 to 65535 without leading zeros.
    #[error("the port is not a number from 1 to 65535 without leading zeros")]
    Port,
    /// The scheme's own port, which browsers leave out.
    #[error("browsers leave out the scheme's default port")]
    DefaultPort,
}

impl FromStr for Origin {
    type Err = ParseOriginError;

    fn from_str(text: &str) -> Result<Self, ParseOriginError> {
        if text == "null" {
            return Err(ParseOriginError::Null);
        }
        if text.contains('*') {
            return Err(ParseOriginError::Pattern);
        }
        if text.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(ParseOriginError::UpperCase);
        }
        let (scheme, rest) = text.split_once("://").ok_or(ParseOriginError::Scheme)?;
        let in_scheme = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.chars().all(in_scheme) {
            return Err(ParseOriginError::Scheme);
        }
        // PER-40
        if matches!(scheme, "file" | "ftp" | "ws" | "wss") {
            return Err(ParseOriginError::NoPage);
        }
        if rest.contains(['/', '?', '#', '\\']) {
            return Err(ParseOriginError::Path);
        }
        if rest.contains('@') {
            return Err(ParseOriginError::UserInfo);
        }
        // The colons of an IPv6 address stand before its closing bracket.
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        };
        if !is_serialised_host(host) {
            return Err(ParseOriginError::Host);
        }
        if let Some(digits) = port {
            let port = parse_port(digits.as_bytes()).ok_or(ParseOriginError::Port)?;
            if matches!((scheme, port), ("http", 80) | ("https", 443)) {
                return Err(ParseOriginError::DefaultPort);
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// Whether a lower-case host is written as browsers serialise it: labels of ASCII (an international name in its
/// `xn--` form), a dotted IPv4 address of four numbers, or the shortest IPv6 address in brackets.
fn is_serialised_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse().is_ok_and(|parsed| address == serialised(parsed));
    }
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    let is_label = |label: &str| !label.is_empty() && label.chars().all(is_letter);
    // A name whose last label is a number is an address, however short it is written.
    let is_number = |label: &str| match label.strip_prefix("0x") {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => label.chars().all(|c| c.is_ascii_digit()),
    };
    let is_address = host.rsplit('.').next().is_some_and(is_number);
    host.split('.').all(is_label) && (!is_address || host.parse::<Ipv4Addr>().is_ok())
}

/// An IPv6 address as browsers write it: without dots, also where it stands for an IPv4 address.
fn serialised(address: Ipv6Addr) -> String {
    match (address.to_ipv4_mapped(), address.segments()) {
        (Some(_), [.., high, low]) => format!("::ffff:{high:x}:{low:x}"),
        _ => address.to_string(),
    }
}

/// A list of admitted origins; a clone shares it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Origins(Arc<BTreeSet<Origin>>);

impl Origins {
    /// Returns whether exactly this serialised origin is listed.
    pub fn contains(&self, origin: &str) -> bool {
        self.0.contains(origin)
    }

    /// Returns the listed origins in order.
    pub fn iter(&self) -> impl Iterator<Item = &Origin> {
        self.0.iter()
    }
}

impl FromIterator<Origin> for Origins {
    fn from_iter<I: IntoIterator<Item = Origin>>(origins: I) -> Self {
        Self(Arc::new(origins.into_iter().collect()))
    }
}

/// An origin of the list, and the list as it changes.
#[derive(Clone)]
pub(super) struct Listed {
    pub(super) origin: HeaderValue,
    pub(super) list: watch::Receiver<Origins>,
}

impl Listed {
    /// Whether the origin was taken off the list (PER-42), or the daemon is gone.
    pub(super) fn is_removed(&mut self) -> bool {
        match self.list.has_changed() {
            Ok(false) => false,
            Ok(true) => !is_on(&self.origin, &self.list.borrow_and_update()),
            Err(_) => true,
        }
    }

    /// Ends when the origin was taken off the list, or the daemon is gone.
    pub(super) async fn removed(mut self) {
        let _ = self.list.wait_for(|list| !is_on(&self.origin, list)).await;
    }
}

fn is_on(origin: &HeaderValue, list: &Origins) -> bool {
    origin.to_str().is_ok_and(|origin| list.contains(origin))
}
