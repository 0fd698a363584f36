//! JSON that readers in every language accept and read alike: a daemon checks what a client sent before it passes it on to
//! others.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// How deeply objects and lists may be nested; the outermost is the first level (STR-31).
pub const MAX_NESTING: usize = 64;

/// Checks that the bytes are one JSON text of at most [`MAX_NESTING`] levels that does not contain half of a surrogate pair, a
/// number beyond the range of a double, or an object with two equal keys, however they are written (STR-31). An integer may
/// have more digits than a double holds.
///
/// # Errors
/// Fails at the first fault. The error says where it is, and repeats nothing of the text.
pub fn check(text: &[u8]) -> Result<(), Error> {
    match parse(text, MAX_NESTING) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error { line: error.line(), column: error.column() }),
    }
}

/// The text is not JSON, or JSON that readers refuse or read differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "it is not JSON that every reader accepts, at line {line}, column {column}: it may have {MAX_NESTING} levels at most, no \
     half of a surrogate pair, no number beyond a double and no two equal keys in an object"
)]
pub struct Error {
    /// The line of the fault, counted from 1.
    pub line: usize,
    /// The column of the fault in bytes, counted from 0.
    pub column: usize,
}

/// Parses a text of at most `levels` levels in which no object has two equal keys.
pub(crate) fn parse(text: &[u8], levels: usize) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict { levels }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Deserializes a [`Value`], which by itself would silently keep the last of two equal keys.
#[derive(Clone, Copy)]
struct Strict {
    /// How many more levels are allowed.
    levels: usize,
}

impl Strict {
    /// Returns what deserializes the next level.
    fn below<E: de::Error>(self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1).ok_or_else(|| E::custom("it is nested too deep"))?;
        Ok(Self { levels })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(below)? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.insert(key, map.next_value_seed(below)?).is_some() {
                return Err(de::Error::custom("a key occurs twice"));
            }
        }
        Ok(object.into())
    }
}
