//! The world in which a process runs: machine, boot, network and pid namespace, in the forms of a record.

use std::fs;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::proof;

/// The members of a record that say in which world its daemon runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// The machine.
    pub host: Option<String>,
    /// The run of its kernel.
    pub boot: Option<String>,
    /// The network namespace.
    pub netns: Option<String>,
    /// The pid namespace.
    pub pidns: Option<String>,
}

impl World {
    /// Returns the world of a process, as far as this host tells it.
    pub fn of(pid: u32) -> Self {
        let namespace = |kind| {
            let target = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
            Some(target.to_str()?.to_owned())
        };
        Self {
            host: host(),
            boot: word("/proc/sys/kernel/random/boot_id"),
            netns: namespace("net"),
            pidns: namespace("pid"),
        }
    }

    /// Returns the suite's own world.
    pub fn own() -> Self {
        Self::of(std::process::id())
    }
}

/// Returns a hash of the machine's id, which must not be published itself.
fn host() -> Option<String> {
    let id = word("/etc/machine-id")?;
    let mut mac = Hmac::<Sha256>::new_from_slice(id.as_bytes()).ok()?;
    mac.update(b"local-daemon/1 host");
    let hash = mac.finalize().into_bytes();
    Some(proof::hex(&hash[..16]))
}

/// Returns the content of a file without white space; `None` if nothing is left.
fn word(path: &str) -> Option<String> {
    let mut word = fs::read_to_string(path).ok()?;
    word.retain(|character| !character.is_whitespace());
    (!word.is_empty()).then_some(word)
}
