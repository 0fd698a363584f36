//! Chapter 08: the protocol identifier.

pub(crate) mod faults;

use crate::fault::broken;

/// The protocol that is spoken if `SUBJECT_PROTOCOL` names no other.
pub(super) const PROTOCOL: &str = "subject/1";

/// The protocol as it is told.
pub(super) fn told(protocol: &str) -> String {
    let name = protocol.split('/').next().unwrap_or_default();
    match protocol {
        _ if broken("GATE-1.name-alone") => name.to_owned(),
        _ if broken("GATE-1.version") => format!("{protocol}.0"),
        PROTOCOL if broken("GATE-1.constant") => format!("{name}/01"),
        _ if broken("GATE-2.built-in") => PROTOCOL.to_owned(),
        _ if broken("GATE-2.by-version") => format!("{name}/10"),
        _ if broken("GATE-2.short-name") => {
            format!("{}{}", &name[..name.len().min(32)], &protocol[name.len()..])
        }
        right => right.to_owned(),
    }
}

/// The name and the number of a protocol identifier.
pub(super) fn protocol(identifier: &str) -> Option<(&str, u32)> {
    let (name, number) = identifier.split_once('/')?;
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let named = (1..=64).contains(&name.len())
        && name
            .bytes()
            .enumerate()
            .all(|(place, byte)| plain(byte) || (place > 0 && matches!(byte, b'.' | b'_' | b'-')));
    let numbered = !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|number| (1..=0x7fff_ffff).contains(number))?;
    (named && numbered).then_some((name, number))
}
