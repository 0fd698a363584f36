//! The specification's vectors as seeds.

use local_daemon_spec::vectors::{bytes, cases, text};
use serde_json::Value;

use crate::Seed;

/// What `of` makes of each case of a file, by the case's name.
pub(crate) fn seeds(file: &str, of: impl Fn(&Value) -> Option<Vec<u8>>) -> Vec<Seed> {
    let cases = cases(file).into_iter();
    cases.filter_map(|case| Some((text(&case, "name").to_owned(), of(&case)?))).collect()
}

/// The `input` of each case of a file.
pub(crate) fn inputs(file: &str) -> Vec<Seed> {
    seeds(file, |case| Some(bytes(case, "input")))
}
