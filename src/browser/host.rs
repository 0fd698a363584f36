//! The page host, which gives the daemon's own page an origin that no earlier owner of the port can have prepared.

use std::fmt;

use local_daemon_proto::registration::LoopbackHost;
use subtle::ConstantTimeEq;

/// The number of hexadecimal digits of a page host: 128 bits.
const DIGITS: usize = 32;
const DOMAIN: &str = ".localhost";

/// The host name of the page of one launch: 32 lowercase hexadecimal digits and `.localhost` (BROW-35). `Debug` does not show
/// it (BROW-41).
#[derive(Clone)]
pub struct PageHost(String);

impl PageHost {
    /// Draws a new one from the system's random source.
    ///
    /// # Panics
    ///
    /// Panics if the system has no random source.
    pub fn fresh() -> Self {
        let mut bits = [0; DIGITS / 2];
        getrandom::fill(&mut bits).expect("the system has a random source");
        Self(format!("{:032x}{DOMAIN}", u128::from_ne_bytes(bits)))
    }

    /// Returns the name without a port, for the one answer that may contain it (BROW-41).
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(name).into()
    }

    /// Whether a name has the form of a page host.
    pub(crate) fn is_well_formed(name: &[u8]) -> bool {
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        name.strip_suffix(DOMAIN.as_bytes())
            .is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(is_digit))
    }
}

impl fmt::Debug for PageHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The name of the daemon that a request or a ticket is for. A guard with page tokens adds it to the extensions of each request
/// that it lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Host {
    /// The page host of this launch.
    Page,
    /// One of the three names that every daemon has (PER-3).
    Loopback(LoopbackHost),
}
