//! `/v1/events`: what happens in the daemon, for everybody who listens.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use local_daemon::axum::{Json, Problem};
use local_daemon::streams::EventId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Context;

/// The route.
pub(super) const PATH: &str = "/v1/events";

/// The topics of the stream, without `lifecycle`.
pub(super) const TOPICS: [&str; 5] = ["warning", "origins", "sessions", "proxies", "note"];

/// Appends what has happened; `None` once the streams have ended.
fn append(context: &Context, topic: &str, data: &(impl Serialize + ?Sized)) -> Option<EventId> {
    context
        .events
        .append(topic, data)
        .expect("JSON values are JSON, so is what a client sent as such, and the log is in memory")
}

/// Logs a warning, and sends it to every subscriber, with the origin that it is about. The message holds no secret.
pub(super) fn warn(context: &Context, code: &str, message: &str, origin: Option<&str>) {
    tracing::warn!(code, origin, message);
    let mut data = json!({"code": code, "message": message});
    if let Some(origin) = origin {
        data["origin"] = origin.into();
    }
    append(context, "warning", &data);
}

/// Tells every subscriber that the configuration was read again.
pub(super) fn reloaded(context: &Context) {
    append(context, "lifecycle", &json!({"what": "reloaded"}));
}

/// A note as it came: no number in it loses a digit (STR-7).
#[derive(Deserialize)]
pub(super) struct Note {
    topic: String,
    data: Box<RawValue>,
}

/// `POST /v1/events`: a note that every subscriber sees (STR-7, STR-9, STR-31), of at most the 64 KiB that [`App`] takes (STR-8).
///
/// [`App`]: local_daemon::axum::App
pub(super) async fn note(
    State(context): State<Arc<Context>>,
    Json(note): Json<Note>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    if note.topic != "note" {
        return Err(Problem::invalid("the topic that clients may post to is note"));
    }
    let id = append(&context, "note", &note.data).ok_or_else(Problem::draining)?;
    Ok((StatusCode::CREATED, Json(json!({"id": id.to_string()}))))
}
