//! The registration record: the facts by which a client finds a daemon. No I/O.
//!
//! A value of a type in this module cannot hold what a reader has to refuse: a [`LoopbackUrl`] is one of three
//! hosts and a port, a [`ClaimId`] is 128 bits.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::num::{NonZeroU16, NonZeroU32};
use core::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::json;

/// The most bytes that a reader takes of a record, a credential or a handshake answer (64 KiB).
pub const MAX_BYTES: usize = 64 * 1024;

/// The random token of one launch: whoever wrote the record's `id` owns the record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimId(u128);

impl ClaimId {
    /// Returns an id of the given 128 random bits, written as 32 lowercase digits (REG-3).
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Returns the number that the first eight digits are: the epoch of the daemon's event streams (STR-10).
    pub const fn epoch(self) -> u32 {
        (self.0 >> 96) as u32
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClaimId {
    type Err = ParseRegistrationError;

    fn from_str(text: &str) -> Result<Self, ParseRegistrationError> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 32 || !text.bytes().all(lower_hex) {
            return Err(ParseRegistrationError::Id);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| ParseRegistrationError::Id)
    }
}

impl Serialize for ClaimId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One of the three hosts that a record may name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the specification closes the list")]
pub enum LoopbackHost {
    /// `127.0.0.1`, what daemons write.
    V4,
    /// `[::1]`, what daemons write where v4 is absent.
    V6,
    /// `localhost`, which may resolve to either family: both are tried and only proof is trusted.
    Localhost,
}

impl LoopbackHost {
    /// Returns the host as it is written in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1",
            Self::V6 => "[::1]",
            Self::Localhost => "localhost",
        }
    }
}

impl FromStr for LoopbackHost {
    type Err = ParseRegistrationError;

    fn from_str(text: &str) -> Result<Self, ParseRegistrationError> {
        [Self::V4, Self::V6, Self::Localhost]
            .into_iter()
            .find(|host| host.as_str() == text)
            .ok_or(ParseRegistrationError::Url)
    }
}

/// A base URL that is accepted by its text, before any normalising (REG-10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoopbackUrl {
    host: LoopbackHost,
    port: NonZeroU16,
    slash: bool,
}

impl LoopbackUrl {
    /// Returns the URL that a daemon writes for a listener on `host` and `port`.
    pub const fn new(host: LoopbackHost, port: NonZeroU16) -> Self {
        Self { host, port, slash: false }
    }

    /// Returns the host as written.
    pub const fn host(self) -> LoopbackHost {
        self.host
    }

    /// Returns the port, 1 to 65535.
    pub const fn port(self) -> u16 {
        self.port.get()
    }

    /// Returns the addresses that it may mean: one, or both for `localhost`. Which of the two is the daemon's only the proof
    /// shows (HS-32).
    ///
    /// ```
    /// use local_daemon_proto::registration::LoopbackUrl;
    ///
    /// let url: LoopbackUrl = "http://localhost:8080".parse()?;
    /// let addresses: Vec<String> = url.addresses().map(|address| address.to_string()).collect();
    /// assert_eq!(addresses, ["127.0.0.1:8080", "[::1]:8080"]);
    /// # Ok::<(), local_daemon_proto::registration::ParseRegistrationError>(())
    /// ```
    pub fn addresses(self) -> impl Iterator<Item = SocketAddr> {
        let v4 = IpAddr::from(Ipv4Addr::LOCALHOST);
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        [(LoopbackHost::V4, v4), (LoopbackHost::V6, v6)]
            .into_iter()
            .filter(move |(host, _)| self.host == LoopbackHost::Localhost || self.host == *host)
            .map(move |(_, address)| SocketAddr::new(address, self.port.get()))
    }

    /// Returns `host:port` as written: what the proof binds, and the `Host` header of a request.
    pub fn authority(self) -> String {
        format!("{}:{}", self.host.as_str(), self.port)
    }
}

impl fmt::Display for LoopbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host.as_str(), self.port, if self.slash { "/" } else { "" })
    }
}

impl fmt::Debug for LoopbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LoopbackUrl {
    type Err = ParseRegistrationError;

    fn from_str(text: &str) -> Result<Self, ParseRegistrationError> {
        let rest = text.strip_prefix("http://").ok_or(ParseRegistrationError::Url)?;
        let (rest, slash) = rest.strip_suffix('/').map_or((rest, false), |rest| (rest, true));
        let (host, digits) = rest.rsplit_once(':').ok_or(ParseRegistrationError::Url)?;
        let host = host.parse()?;
        // `u16::from_str` takes a sign and leading zeros; a URL's text here does not.
        if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseRegistrationError::Url);
        }
        let port = digits.parse().map_err(|_| ParseRegistrationError::Url)?;
        Ok(Self { host, port, slash })
    }
}

impl Serialize for LoopbackUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The world in which a process runs, as far as it is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize)]
pub struct World {
    /// The machine: see [`host`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Box<str>>,
    /// The run of its kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Box<str>>,
    /// The network namespace, which decides to which daemon an address leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<Box<str>>,
    /// The pid namespace, which decides which process a pid means. It counts for signals alone (CONV-36).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pidns: Option<Box<str>>,
}

/// Where a daemon runs, as seen by a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the specification closes the list")]
pub enum Place {
    /// In the same world, as far as both sides know theirs: its address can be asked.
    Here,
    /// On another host (CONN-39).
    OtherHost,
    /// On the same host before it was booted (CONN-40).
    EarlierBoot,
    /// In another network namespace of the same host (CONN-41).
    OtherNetwork,
}

impl World {
    /// Returns where a daemon of this world runs, as seen by a process whose world is `here`. A member that is missing on
    /// either side is not compared.
    pub fn seen_from(&self, here: &Self) -> Place {
        let compare = |theirs: &Option<Box<str>>, ours: &Option<Box<str>>| {
            theirs.as_ref().zip(ours.as_ref()).map(|(theirs, ours)| theirs == ours)
        };
        match (compare(&self.host, &here.host), compare(&self.boot, &here.boot)) {
            (Some(false), _) => Place::OtherHost,
            (Some(true), Some(false)) => Place::EarlierBoot,
            (_, Some(false)) => Place::Here,
            _ if compare(&self.netns, &here.netns) == Some(false) => Place::OtherNetwork,
            _ => Place::Here,
        }
    }

    /// Returns whether an address of this world means the same in the world `here`, as far as both are known.
    pub fn shares_network(&self, here: &Self) -> bool {
        self.netns.is_some() && self.netns == here.netns
    }

    /// Returns whether a pid of this world may mean another process in the world `here` (CONV-36).
    pub fn has_other_pids(&self, here: &Self) -> bool {
        self.pidns.as_ref().zip(here.pidns.as_ref()).is_some_and(|(theirs, ours)| theirs != ours)
    }
}

/// Returns the `host` of a machine with this id, which systemd asks to keep confidential: 16 bytes of a digest of it.
pub fn host(machine_id: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(machine_id.trim().as_bytes()).expect("HMAC takes a key of any length");
    mac.update(b"local-daemon/1 host");
    mac.finalize()
        .into_bytes()
        .iter()
        .take(16)
        .fold(String::with_capacity(32), |mut hex, byte| {
            use core::fmt::Write as _;
            write!(hex, "{byte:02x}").expect("a String takes every write");
            hex
        })
}

/// The parsed record.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Registration {
    /// Who owns the record.
    pub id: ClaimId,
    /// The implementation's version; informational, never the gate.
    pub version: String,
    /// Where the daemon listens.
    pub url: LoopbackUrl,
    /// The daemon's process id, for diagnostics; never for liveness.
    pub pid: NonZeroU32,
    /// The wire protocol, as a hint: the handshake decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Path of the Unix socket, where the daemon has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// When the daemon started (RFC 3339, UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// The world in which the daemon runs.
    #[serde(flatten)]
    pub world: World,
}

impl Registration {
    /// Parses the bytes of a record (REG-9); members that it does not know are left aside (REG-12).
    ///
    /// # Errors
    /// [`ParseRegistrationError`] says what a reader has to refuse; such a record counts as absent.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseRegistrationError> {
        let object = parse_object(bytes)?;
        Ok(Self {
            id: string(&object, "id")?.parse()?,
            version: string(&object, "version")?.to_owned(),
            url: string(&object, "url")?.parse()?,
            pid: pid(&object)?,
            protocol: optional_string(&object, "protocol")?,
            socket: optional_string(&object, "socket")?,
            started_at: optional_string(&object, "started_at")?,
            world: World {
                host: optional_string(&object, "host")?.map(Into::into),
                boot: optional_string(&object, "boot")?.map(Into::into),
                netns: optional_string(&object, "netns")?.map(Into::into),
                pidns: optional_string(&object, "pidns")?.map(Into::into),
            },
        })
    }

    /// Returns the `id` of bytes that may be no valid record otherwise: it alone tells whose they are (CONV-3).
    pub fn id_of(bytes: &[u8]) -> Option<ClaimId> {
        string(&parse_object(bytes).ok()?, "id").ok()?.parse().ok()
    }

    /// Returns the record's bytes as a daemon writes them: one JSON object and a newline (REG-1, REG-2).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("strings and numbers always serialise");
        bytes.push(b'\n');
        bytes
    }
}

/// What a read of the record showed. Only [`RecordRead::Missing`] means "no such file".
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the specification closes the list")]
pub enum RecordRead {
    /// No such file, in a directory that is there.
    Missing,
    /// The state directory itself is gone.
    DirectoryGone,
    /// A valid record.
    Record(Registration),
    /// A file that was read whole and is no valid record, with its `id` where that much could be read.
    Malformed(Option<ClaimId>),
    /// A file that could not be read, or must not be: an I/O error, a wrong mode, owner or type.
    Unreadable,
}

impl RecordRead {
    /// Returns the id in it, as far as it could be read.
    pub fn id(&self) -> Option<ClaimId> {
        match self {
            Self::Record(record) => Some(record.id),
            Self::Malformed(id) => *id,
            Self::Missing | Self::DirectoryGone | Self::Unreadable => None,
        }
    }
}

/// Why a record or a handshake body is not valid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRegistrationError {
    /// Larger than [`MAX_BYTES`].
    #[error("it is larger than 64 KiB")]
    TooLarge,
    /// Not one JSON object, or a key stands twice in it.
    #[error("it is not one JSON object with unique keys: {0}")]
    Json(String),
    /// A required member is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A member has the wrong type.
    #[error("`{0}` has the wrong type")]
    Type(&'static str),
    /// `id` is not 32 lowercase hexadecimal digits.
    #[error("`id` is not 32 lowercase hexadecimal digits")]
    Id,
    /// `url` is not one of the accepted texts.
    #[error("`url` is not http:// with 127.0.0.1, [::1] or localhost and a port")]
    Url,
    /// `pid` is not a process id.
    #[error("`pid` is not an integer from 1 to 2147483647")]
    Pid,
    /// `protocol` of a handshake is not `name/N`.
    #[error("`protocol` is not of the form name/N")]
    Protocol,
    /// `state` of a handshake is neither `ready` nor `draining`.
    #[error("`state` is neither ready nor draining")]
    State,
    /// `spec` of a handshake names another contract.
    #[error("`spec` is not local-daemon/1")]
    Spec,
}

/// Parses one JSON object in which no key stands twice, at any depth.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, ParseRegistrationError> {
    if bytes.len() > MAX_BYTES {
        return Err(ParseRegistrationError::TooLarge);
    }
    match json::parse(bytes, usize::MAX).map_err(|e| ParseRegistrationError::Json(e.to_string()))? {
        Value::Object(object) => Ok(object),
        _ => Err(ParseRegistrationError::Json("the top is not an object".to_owned())),
    }
}

pub(crate) fn string<'a>(
    object: &'a Map<String, Value>,
    key: &'static str,
) -> Result<&'a str, ParseRegistrationError> {
    object
        .get(key)
        .ok_or(ParseRegistrationError::Missing(key))?
        .as_str()
        .ok_or(ParseRegistrationError::Type(key))
}

pub(crate) fn pid(object: &Map<String, Value>) -> Result<NonZeroU32, ParseRegistrationError> {
    let value = object.get("pid").ok_or(ParseRegistrationError::Missing("pid"))?;
    if !value.is_number() {
        return Err(ParseRegistrationError::Type("pid"));
    }
    let number = value.as_u64().and_then(|n| i32::try_from(n).ok()).ok_or(ParseRegistrationError::Pid)?;
    NonZeroU32::new(number.unsigned_abs()).ok_or(ParseRegistrationError::Pid)
}

fn optional_string(
    object: &Map<String, Value>,
    key: &'static str,
) -> Result<Option<String>, ParseRegistrationError> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ParseRegistrationError::Type(key)),
    }
}
