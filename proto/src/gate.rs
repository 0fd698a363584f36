//! The gate: which wire protocols may talk to each other, and who may displace whom. No I/O.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;

use serde::Serialize;

/// A wire protocol identifier, `name/N` (GATE-1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Protocol {
    name: String,
    number: NonZeroU32,
}

impl Protocol {
    /// Returns the name without the number, such as `locald` of `locald/1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether a daemon of protocol `theirs` serves a client of this one: equality of the whole text (GATE-4).
    /// Neither the version (GATE-5) nor the record's hint (GATE-6) plays a part.
    pub fn accepts(&self, theirs: &Self) -> bool {
        self == theirs
    }

    /// Returns whether a client of this protocol may displace a daemon of `theirs` without being told to: the names are
    /// equal and its own number is higher, so that two versions side by side never loop (GATE-8).
    pub fn may_displace(&self, theirs: &Self) -> bool {
        self.name == theirs.name && self.number > theirs.number
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.number)
    }
}

/// A text that is not a protocol identifier.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a protocol identifier: expected name/N, such as acme/1")]
pub struct ParseProtocolError(pub String);

impl FromStr for Protocol {
    type Err = ParseProtocolError;

    fn from_str(text: &str) -> Result<Self, ParseProtocolError> {
        let refuse = || ParseProtocolError(text.chars().take(80).collect());
        let (name, number) = text.split_once('/').ok_or_else(refuse)?;
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !starts || name.len() > 64 || !name.bytes().all(inner) {
            return Err(refuse());
        }
        if number.starts_with('0') || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refuse());
        }
        let number = number
            .parse()
            .ok()
            .filter(|n: &NonZeroU32| i32::try_from(n.get()).is_ok())
            .ok_or_else(refuse)?;
        Ok(Self { name: name.to_owned(), number })
    }
}

impl Serialize for Protocol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
