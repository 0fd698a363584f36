//! A product on the same daemon: its events have a topic of their own, are posted at a route of their own, and are answered
//! otherwise than notes.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::answer::{Answer, DRAINING, INVALID, Refusal};
use crate::state::Daemon;

/// Where its events are posted.
pub(super) const PATH: &str = "/v1/notes";
/// The topic of its events.
pub(super) const TOPIC: &str = "notes";

/// Whether this daemon is the product's.
static ON: AtomicBool = AtomicBool::new(false);

/// Makes this daemon the product's.
pub(super) fn turn_on() {
    ON.store(true, Ordering::Relaxed);
}

pub(super) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Whether the product has events of this topic. It takes no notes of chapter 18.
pub(super) fn has_topic(topic: &str) -> bool {
    is_on() && topic == TOPIC
}

/// Appends an event and returns the answer.
pub(super) fn post(daemon: &Daemon, body: &[u8]) -> Result<Answer, Refusal> {
    let data: Value = serde_json::from_slice(body).map_err(|_| INVALID)?;
    if !data.is_object() {
        return Err(INVALID);
    }
    if daemon.standing_down().is_some() {
        return Err(DRAINING);
    }
    let id = daemon.log.append(TOPIC, &data);
    Ok(Answer::json(202, &json!({"event": {"id": id}})))
}
