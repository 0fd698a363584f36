//! The suite's own strict reading of the registration record, its URL and the credential file, and writers for fakes.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::proof::{Credential, random_hex};
use crate::world::World;

/// File name of the record in a state directory.
pub const RECORD: &str = "registration.json";
/// File name of the credential in a state directory.
pub const CREDENTIAL: &str = "credential";
/// Longest record, credential file and body of a handshake, in bytes.
pub const MOST_BYTES: usize = 64 * 1024;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// More than [`MOST_BYTES`].
    #[error("{0} bytes, more than 64 KiB")]
    TooLarge(usize),
    /// Not one JSON object and nothing else: syntax, encoding, a byte order mark, trailing bytes, a duplicate key.
    #[error("not a JSON object: {0}")]
    Syntax(String),
    /// A field that must be there is not.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field holds what it may not.
    #[error("field `{0}` is not valid")]
    Field(&'static str),
}

/// A registration record that satisfies every rule of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// 32 lowercase hexadecimal digits.
    pub id: String,
    /// Informational.
    pub version: String,
    /// Where the daemon listens.
    pub url: Url,
    /// The daemon's process id, 1 to 2147483647.
    pub pid: i32,
    /// The hint at the wire protocol.
    pub protocol: Option<String>,
    /// The Unix socket's path.
    pub socket: Option<String>,
    /// When the daemon says it started.
    pub started_at: Option<String>,
    /// The world in which it runs, as far as it says.
    pub world: World,
}

impl Record {
    /// A record of a new random id.
    pub fn new(url: Url, pid: u32) -> Self {
        Self {
            id: random_hex::<16>(),
            version: "0.0.0".to_owned(),
            url,
            pid: i32::try_from(pid).unwrap_or(i32::MAX),
            protocol: None,
            socket: None,
            started_at: None,
            world: World::default(),
        }
    }

    /// Holds another id.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: id.into(), ..self }
    }

    /// Names this version.
    #[must_use]
    pub fn with_version(self, version: impl Into<String>) -> Self {
        Self { version: version.into(), ..self }
    }

    /// Hints at this wire protocol.
    #[must_use]
    pub fn with_protocol(self, protocol: impl Into<String>) -> Self {
        Self { protocol: Some(protocol.into()), ..self }
    }

    /// Names another process.
    #[must_use]
    pub fn with_pid(self, pid: u32) -> Self {
        Self { pid: i32::try_from(pid).unwrap_or(i32::MAX), ..self }
    }

    /// Leads to another place.
    #[must_use]
    pub fn with_url(self, url: Url) -> Self {
        Self { url, ..self }
    }

    /// Sets the world.
    #[must_use]
    pub fn with_world(self, world: World) -> Self {
        Self { world, ..self }
    }

    /// Reads a record from its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordFault> {
        if bytes.len() > MOST_BYTES {
            return Err(RecordFault::TooLarge(bytes.len()));
        }
        let fields = parse_object(bytes)?;
        let text = |name| match fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(RecordFault::Field(name)),
        };
        let required = |name| text(name)?.ok_or(RecordFault::Missing(name));
        let id = required("id")?;
        if !is_id(&id) {
            return Err(RecordFault::Field("id"));
        }
        let pid = match fields.get("pid").ok_or(RecordFault::Missing("pid"))? {
            Value::Number(number) => {
                number.as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid >= 1)
            }
            _ => None,
        };
        Ok(Self {
            id,
            version: required("version")?,
            url: Url::parse(&required("url")?).ok_or(RecordFault::Field("url"))?,
            pid: pid.ok_or(RecordFault::Field("pid"))?,
            protocol: text("protocol")?,
            socket: text("socket")?,
            started_at: text("started_at")?,
            world: World {
                host: text("host")?,
                boot: text("boot")?,
                netns: text("netns")?,
                pidns: text("pidns")?,
            },
        })
    }

    /// The record as a daemon would write it.
    pub fn to_json(&self) -> String {
        let mut fields =
            json!({"id": self.id, "version": self.version, "url": self.url.text(), "pid": self.pid});
        for (name, value) in [
            ("protocol", &self.protocol),
            ("socket", &self.socket),
            ("started_at", &self.started_at),
            ("host", &self.world.host),
            ("boot", &self.world.boot),
            ("netns", &self.world.netns),
            ("pidns", &self.world.pidns),
        ] {
            if let Some(value) = value {
                fields[name] = json!(value);
            }
        }
        fields.to_string() + "\n"
    }

    /// Publishes it in `state_dir` as a well-behaved daemon does: a private temporary file, renamed into place.
    pub fn publish(&self, state_dir: &Path) -> io::Result<()> {
        replace(&state_dir.join(RECORD), self.to_json().as_bytes(), 0o600)
    }
}

/// Whether `text` is 32 lowercase hexadecimal digits.
pub fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The host part of a record's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// `127.0.0.1`
    V4,
    /// `localhost`
    Name,
    /// `[::1]`
    V6,
}

/// A loopback base URL, accepted by its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Which of the three hosts.
    pub host: Host,
    /// 1 to 65535.
    pub port: u16,
    text: String,
}

impl Url {
    /// Reads `http://`, one of the three hosts, a port without leading zeros, and nothing or `/`.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("http://")?;
        let hosts = [
            ("127.0.0.1:", Host::V4),
            ("localhost:", Host::Name),
            ("[::1]:", Host::V6),
        ];
        let (host, rest) = hosts.iter().find_map(|(name, host)| Some((*host, rest.strip_prefix(name)?)))?;
        let port = rest.strip_suffix('/').unwrap_or(rest);
        if port.starts_with('0') || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self { host, port: port.parse().ok()?, text: text.to_owned() })
    }

    /// The URL of a listener on loopback.
    pub fn of(address: SocketAddr) -> Self {
        let host = if address.is_ipv6() { Host::V6 } else { Host::V4 };
        let name = if address.is_ipv6() { "[::1]" } else { "127.0.0.1" };
        Self {
            host,
            port: address.port(),
            text: format!("http://{name}:{}", address.port()),
        }
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `host:port` as written: what a proof is made for.
    pub fn authority(&self) -> &str {
        self.text.trim_start_matches("http://").trim_end_matches('/')
    }

    /// The addresses that a client may try, in order: both families for `localhost`.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
        let addresses = match self.host {
            Host::V4 => vec![v4],
            Host::Name => vec![v4, v6],
            Host::V6 => vec![v6],
        };
        addresses.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }
}

/// Reads the bytes of a credential file: 43 characters of base64url, with or without one final newline. (A daemon
/// writes the newline: what it wrote is 44 bytes long.)
pub fn parse_credential(bytes: &[u8]) -> Option<Credential> {
    let text = std::str::from_utf8(bytes).ok()?;
    Credential::from_text(text.strip_suffix('\n').unwrap_or(text))
}

/// Writes `credential` as a well-behaved daemon leaves it.
pub fn write_credential(state_dir: &Path, credential: &Credential) -> io::Result<()> {
    replace(&state_dir.join(CREDENTIAL), format!("{}\n", credential.text()).as_bytes(), 0o600)
}

/// Replaces `path` by a file of these bytes and exactly this mode, atomically.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", random_hex::<8>()));
    let temporary = path.with_file_name(name);
    write_new(&temporary, bytes, mode)?;
    std::fs::rename(&temporary, path)
}

/// Creates `path` with these bytes and exactly this mode, whatever the umask; fails if it is there.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode & 0o700).open(path)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(bytes)
}

/// Reads one JSON object in UTF-8 without a byte order mark, without duplicate keys at any depth, and with nothing but
/// white space around it.
pub fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, RecordFault> {
    let Strict(value) =
        serde_json::from_slice(bytes).map_err(|error| RecordFault::Syntax(error.to_string()))?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(RecordFault::Syntax("another JSON value".to_owned())),
    }
}

/// Any JSON value, refused if an object in it names a key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let (mut fields, mut seen) = (Map::new(), BTreeSet::new());
        while let Some((name, Strict(value))) = map.next_entry::<String, Strict>()? {
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom(format_args!("key {name:?} twice")));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = Record> {
        let text = || proptest::option::of(any::<String>());
        let url = (0..3_u8, 1_u16.., any::<bool>()).prop_map(|(host, port, slash)| {
            let host = ["127.0.0.1", "localhost", "[::1]"][usize::from(host)];
            let text = format!("http://{host}:{port}{}", if slash { "/" } else { "" });
            Url::parse(&text).expect("a good URL")
        });
        let world = (text(), text(), text(), text()).prop_map(|(host, boot, netns, pidns)| World {
            host,
            boot,
            netns,
            pidns,
        });
        ("[0-9a-f]{32}", any::<String>(), url, 1_i32.., text(), text(), text(), world).prop_map(
            |(id, version, url, pid, protocol, socket, started_at, world)| Record {
                id,
                version,
                url,
                pid,
                protocol,
                socket,
                started_at,
                world,
            },
        )
    }

    proptest! {
        #[test]
        fn a_written_record_reads_back(record in any_record()) {
            prop_assert_eq!(Record::parse(record.to_json().as_bytes()), Ok(record));
        }

        // What a torn write leaves: the beginning of a record, or its beginning and the end of an older one.
        #[test]
        fn no_part_of_a_record_is_a_record(record in any_record(), cut: proptest::sample::Index) {
            let whole = record.to_json();
            let whole = whole.trim_end().as_bytes();
            prop_assert!(Record::parse(&whole[..cut.index(whole.len())]).is_err());
            prop_assert!(Record::parse(&whole[cut.index(whole.len() - 1) + 1..]).is_err());
            let longer = [whole, b"}"].concat();
            prop_assert!(Record::parse(&longer).is_err());
        }

        #[test]
        fn a_url_reads_as_itself_or_not_at_all(text in "(http://)?(127\\.0\\.0\\.1|localhost|\\[::1\\]|.{0,9}):?[0-9]{0,6}.{0,2}") {
            if let Some(url) = Url::parse(&text) {
                prop_assert_eq!(url.text(), &text);
                let bare = format!("http://{}", url.authority());
                let slashed = format!("{bare}/");
                prop_assert!(text == bare || text == slashed);
                let port = format!(":{}", url.port);
                prop_assert!(url.authority().ends_with(&port));
                prop_assert!(url.addresses().iter().all(|address| address.ip().is_loopback()));
            }
        }

        #[test]
        fn no_bytes_make_a_parser_panic(bytes: Vec<u8>) {
            let _ = Record::parse(&bytes);
            let _ = parse_credential(&bytes);
        }
    }

    #[test]
    fn a_key_twice_is_found_at_every_depth() {
        assert!(parse_object(br#"{"a":{"b":[{"c":1,"d":2}]},"b":1}"#).is_ok());
        for twice in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":[{"c":1,"c":2}]}}"#,
            r#"{"a":1,"\u0061":1}"#,
        ] {
            assert!(matches!(parse_object(twice.as_bytes()), Err(RecordFault::Syntax(_))), "{twice}");
        }
    }

    #[test]
    fn a_listeners_url_is_its_address() {
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            let url = Url::of(address.parse().unwrap());
            assert_eq!((url.authority(), url.addresses()), (address, vec![address.parse().unwrap()]));
            assert_eq!(Url::parse(url.text()), Some(url));
        }
    }
}
