//! Conditions that last, such as a file of a wrong mode: each is logged once when it begins and once when it ends (LIFE-40).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The conditions that hold now, each with the reason.
#[derive(Debug, Default)]
pub(super) struct Conditions(Mutex<BTreeMap<String, String>>);

impl Conditions {
    /// Notes whether a condition holds now, and why; `None` means that it does not. Logs a change.
    pub(super) fn note(&self, what: &str, why: Option<String>) {
        // An entry is replaced whole.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(what) == why.as_ref() {
            return;
        }
        if let Some(why) = why {
            tracing::warn!(why, "{what}");
            known.insert(what.to_owned(), why);
        } else {
            known.remove(what);
            tracing::info!("no longer: {what}");
        }
    }
}
