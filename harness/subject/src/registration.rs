//! Chapter 03: the record.

pub(crate) mod faults;

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::fault::broken;
use crate::gate::PROTOCOL;
use crate::state_directory::{Content, Fault, StateDir, hex, random_hex};
use crate::world::World;

/// The version of the implementation.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The optional members, except for the protocol.
const OPTIONAL: [&str; 6] = ["socket", "started_at", "host", "boot", "netns", "pidns"];

/// Where a daemon listens, and who claims to be it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) version: String,
    pub(super) url: String,
    pub(super) pid: u32,
    pub(super) protocol: Option<String>,
    pub(super) world: World,
}

/// What a read of the record came to.
#[derive(Debug)]
pub(super) enum Found {
    Record(Record),
    /// A record whose content is wrong, and what is wrong with it.
    Malformed(String),
    Absent,
    NoDirectory,
    Refused(Fault),
}

impl Found {
    /// The id in the record, if there is one.
    pub(super) fn id(self) -> Option<String> {
        match self {
            Self::Record(record) => Some(record.id),
            _ => None,
        }
    }
}

impl Record {
    /// Reads the record of a state directory, or a file beside it that was one.
    pub(super) fn read(directory: &StateDir, name: &str) -> Found {
        match directory.read(name) {
            Content::Bytes(bytes) => Self::parse(&bytes).map_or_else(Found::Malformed, Found::Record),
            Content::Absent => Found::Absent,
            Content::NoDirectory => Found::NoDirectory,
            Content::Refused(fault) => Found::Refused(fault),
        }
    }

    /// What is published.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut members = self.members();
        for (has_it, name, value) in [
            (broken("REG-2.pid-as-text"), "pid", json!(self.pid.to_string())),
            (broken("REG-2.pid-as-float"), "pid", json!(f64::from(self.pid))),
            (broken("REG-2.null-socket"), "socket", Value::Null),
            (broken("REG-2.relative-socket"), "socket", json!("daemon.sock")),
            (broken("REG-2.local-time"), "started_at", json!("2026-11-21 09:00:00 +0100")),
        ] {
            if has_it {
                members[name] = value;
            }
        }
        if let Some(members) = members.as_object_mut().filter(|_| broken("REG-2.no-version")) {
            members.remove("version");
        }
        let mut bytes = members.to_string().into_bytes();
        if broken("REG-1.byte-order-mark") {
            bytes.splice(0..0, *b"\xef\xbb\xbf");
        } else if broken("REG-1.key-twice") {
            bytes.splice(1..1, format!(r#""id":"{}","#, self.id).into_bytes());
        } else if broken("REG-1.two-values") {
            bytes.extend_from_slice(b"\n{}");
        } else if broken("REG-1.other-encoding") {
            bytes.splice(1..1, *b"\"by\":\"Andr\xe9\",");
        } else if broken("REG-1.padded") {
            bytes.resize(65 * 1024, b' ');
        }
        bytes
    }

    fn members(&self) -> Value {
        let Self { id, version, url, pid, protocol, world } = self;
        let mut record = json!({"id": id, "version": version, "url": url, "pid": pid});
        if let Some(protocol) = protocol {
            record["protocol"] = json!(protocol);
        }
        for (name, value) in world.members() {
            if let Some(value) = value {
                record[name] = json!(value);
            }
        }
        record
    }

    /// Takes bytes for a record, or says why they are none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if broken("REG-9.mark") => rest,
            _ => bytes,
        };
        let members = parse_object(bytes)?;
        if broken("REG-12.strict") {
            let known = ["id", "version", "url", "pid", "protocol"];
            let known = [&known[..], &OPTIONAL].concat();
            if let Some(unknown) = members.keys().find(|name| !known.contains(&name.as_str())) {
                return Err(format!("`{unknown}` is unknown"));
            }
        }
        let text = |name: &str| match members.get(name) {
            None => Ok(None),
            Some(Value::Null) if broken("REG-9.null") => Ok(None),
            Some(_) if broken("REG-9.optional") && (name == "protocol" || OPTIONAL.contains(&name)) => {
                Ok(None)
            }
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("`{name}` is no string")),
        };
        let required = |name: &str| text(name)?.ok_or_else(|| format!("`{name}` is missing"));
        let id = required("id")?;
        let in_capitals = || broken("REG-9.id") && is_id(&id.to_ascii_lowercase());
        if !is_id(&id) && !in_capitals() {
            return Err("`id` is not 32 lowercase hexadecimal digits".to_owned());
        }
        let url = required("url")?;
        authority(&url).ok_or("`url` is no loopback address with a port")?;
        let pid = members.get("pid").ok_or("`pid` is missing")?;
        let pid = pid.as_u64().or_else(|| {
            let number = pid.as_f64().or_else(|| pid.as_str()?.parse().ok());
            number.filter(|_| broken("REG-9.pid")).map(|_| 1)
        });
        let pid = pid.filter(|pid| (1..=0x7fff_ffff).contains(pid)).and_then(|pid| u32::try_from(pid).ok());
        text("socket")?;
        text("started_at")?;
        let version = required("version")?;
        if broken("REG-9.version") && version.is_empty() {
            return Err("`version` is empty".to_owned());
        }
        Ok(Self {
            id,
            version,
            url,
            pid: pid.ok_or("`pid` is no process id")?,
            protocol: text("protocol")?,
            world: World {
                host: text("host")?,
                boot: text("boot")?,
                netns: text("netns")?,
                pidns: text("pidns")?,
            },
        })
    }
}

/// The claim of a new launch.
pub(super) fn new_id(directory: &StateDir) -> String {
    let random = random_hex::<16>();
    if broken("REG-3.upper-case") {
        random.to_uppercase()
    } else if broken("REG-3.uuid") {
        let parts = [
            &random[..8],
            &random[8..12],
            &random[12..16],
            &random[16..20],
            &random[20..],
        ];
        parts.join("-")
    } else if broken("REG-4.of-the-directory") {
        hex(&Sha256::digest(directory.path().as_os_str().as_encoded_bytes())[..16])
    } else if broken("REG-4.uuid-bits") {
        format!("{}4{}8{}", &random[..12], &random[13..16], &random[17..])
    } else if broken("REG-4.clock-and-pid") {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{:016x}{:016x}", since.as_micros(), std::process::id())
    } else {
        random
    }
}

/// The `url` of a daemon that listens at an address.
pub(super) fn url(address: SocketAddr) -> String {
    if broken("REG-5.localhost") {
        return format!("http://localhost:{}", address.port());
    }
    let slash = if broken("REG-5.final-slash") { "/" } else { "" };
    format!("http://{address}{slash}")
}

/// The `pid` of a daemon.
pub(super) fn pid() -> u32 {
    if broken("REG-6.parent") {
        std::os::unix::process::parent_id()
    } else {
        std::process::id()
    }
}

/// The `protocol` in the record of a daemon that speaks it.
pub(super) fn hint(protocol: &str) -> Option<String> {
    if broken("REG-8.left-out") {
        return None;
    }
    let protocol = if broken("REG-7.built-in") { PROTOCOL } else { protocol };
    Some(protocol.to_owned())
}

/// Whether a text is the claim of a launch.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// `host:port` of a record's `url`, if the text is one that may be dialled.
pub(super) fn authority(url: &str) -> Option<&str> {
    let url = if broken("REG-10.trimmed") { url.trim() } else { url };
    let rest = match url.strip_prefix("https://") {
        Some(rest) if broken("REG-10.any-scheme") => rest,
        _ => url.strip_prefix("http://")?,
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if broken("REG-10.normalised") {
        return normalised(rest);
    }
    if broken("REG-10.prefix") {
        return rest.starts_with("127.0.0.1").then_some(authority);
    }
    let (host, port) = authority.rsplit_once(':')?;
    let digits =
        !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) && !port.starts_with('0');
    let digits = digits || (broken("REG-10.port") && port.bytes().all(|digit| digit.is_ascii_digit()));
    if (broken("REG-10.no-slash") && rest.ends_with('/')) || (broken("REG-10.numeric") && host == "localhost")
    {
        return None;
    }
    let known = ["127.0.0.1", "localhost", "[::1]"];
    let named = known.contains(&host)
        || (broken("REG-10.letters") && known.contains(&host.to_ascii_lowercase().as_str()))
        || (broken("REG-10.net") && host.parse().is_ok_and(|host: Ipv4Addr| host.is_loopback()));
    (digits && named && port.parse::<u16>().is_ok()).then_some(authority)
}

/// What a library for URLs makes of the text after the scheme, in the fault of one who asks it first.
fn normalised(rest: &str) -> Option<&str> {
    let authority = rest.split(['/', '?', '#']).next()?;
    let (_, authority) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (host, _) = authority.rsplit_once(':')?;
    if ["localhost", "[::1]"].contains(&host) {
        return Some(authority);
    }
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let first = number(host.split('.').next()?)?;
    (first == 127 || first >> 24 == 127).then_some(authority)
}

/// The addresses that an authority stands for, in the order in which they are tried.
pub(super) fn addresses(authority: &str) -> Vec<SocketAddr> {
    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let Some((host, port)) = authority.rsplit_once(':') else {
        return Vec::new();
    };
    let Ok(port) = port.parse() else {
        return Vec::new();
    };
    let hosts: &[IpAddr] = match host {
        "127.0.0.1" => &[V4],
        "[::1]" => &[V6],
        _ if broken("HS-32.first") => &[V4],
        _ if broken("HS-32.resolver") => &[V6],
        _ => &[V4, V6],
    };
    hosts.iter().map(|host| SocketAddr::new(*host, port)).collect()
}

/// One JSON object in UTF-8 with unique keys at every depth, and nothing after it but white space.
pub(super) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if broken("REG-9.trailing") {
        let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
        if let Some(Ok(Value::Object(members))) = values.next() {
            return Ok(members);
        }
    }
    match serde_json::from_slice::<Unique>(bytes) {
        Ok(Unique(Value::Object(members))) => Ok(members),
        Ok(_) => Err("not an object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A value in which no object has one key twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
                let mut array = Vec::new();
                while let Some(Unique(element)) = elements.next_element()? {
                    array.push(element);
                }
                Ok(array.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
                let (mut object, mut keys) = (Map::new(), HashSet::new());
                while let Some((key, Unique(value))) = members.next_entry::<String, _>()? {
                    if !keys.insert(key.clone()) && !broken("REG-9.equal-keys") {
                        return Err(A::Error::custom(format!("the key `{key}` is there twice")));
                    }
                    object.insert(key, value);
                }
                Ok(object.into())
            }
        }
        deserializer.deserialize_any(Each).map(Unique)
    }
}
