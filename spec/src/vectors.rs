//! The test vectors, and how they are read. `spec/vectors/README.md` says how to use them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub use crate::documents::vectors::{ALL, get};

/// The cases of one file by its name.
///
/// # Panics
///
/// When there is no such file, or it is not as `check` wants it.
pub fn cases(file: &str) -> Vec<Value> {
    let text = get(file).unwrap_or_else(|| panic!("no vectors {file}"));
    match serde_json::from_str::<Value>(text).map(|mut vectors| vectors["cases"].take()) {
        Ok(Value::Array(cases)) => cases,
        other => panic!("vectors {file}: {other:?}"),
    }
}

/// A text of a case.
///
/// # Panics
///
/// When the case has no such text.
pub fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("no text {field}: {case}"))
}

/// The bytes of a case: its text, or what `<field>_base64` encodes, padded with spaces as `pad_to` says.
///
/// # Panics
///
/// When the case has neither.
pub fn bytes(case: &Value, field: &str) -> Vec<u8> {
    let mut bytes = match case[format!("{field}_base64")].as_str() {
        Some(encoded) => STANDARD.decode(encoded).unwrap_or_else(|fault| panic!("{field}: {fault}: {case}")),
        None => text(case, field).as_bytes().to_vec(),
    };
    if let Some(length) = case["pad_to"].as_u64().and_then(|length| length.try_into().ok()) {
        bytes.resize(length, b' ');
    }
    bytes
}
