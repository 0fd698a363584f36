//! The page host: an origin of the daemon's own page that nobody can have prepared.

use std::fmt;

use local_daemon_proto::registration::LoopbackHost;
use subtle::ConstantTimeEq;

/// The digits of a page host, which are 128 bits.
const DIGITS: usize = 32;
const DOMAIN: &str = ".localhost";

/// The name of one launch for its page: 32 lowercase hexadecimal digits and `.localhost` (BROW-35). `Debug` does not show
/// it (BROW-41).
#[derive(Clone)]
pub struct PageHost(String);

impl PageHost {
    /// Returns a new one, from 128 bits of the system's random source.
    ///
    /// # Panics
    ///
    /// Panics if the system has no random source.
    pub fn fresh() -> Self {
        let mut bits = [0; DIGITS / 2];
        getrandom::fill(&mut bits).expect("the system has a random source");
        Self(format!("{:032x}{DOMAIN}", u128::from_ne_bytes(bits)))
    }

    /// Returns the name, for the one answer that hands it over.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        self.0.as_bytes().ct_eq(name.as_bytes()).into()
    }

    /// Whether a name is the page host of some launch.
    pub(crate) fn is_form_of(name: &str) -> bool {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        name.strip_suffix(DOMAIN)
            .is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(is_digit))
    }
}

impl fmt::Debug for PageHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Which name of the daemon a request is for, or a ticket. The guard adds it to the extensions of each request that it lets
/// through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host {
    /// The page host of this launch.
    Page,
    /// One of the names that every daemon has.
    Loopback(LoopbackHost),
}
