//! `/v1/events`: what happens in the daemon, for everybody who listens.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{ORIGIN, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use local_daemon::StateDir;
use local_daemon::browser::PageHost;
use local_daemon::claim::Reason;
use local_daemon::perimeter::Caller;
use local_daemon::streams::{End, EventId, Hub, Limits, Selection, SubscribeError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::activity::{Kind, Open};
use super::body::{Payload, invalid, refuse};
use super::{App, rfc3339};
use crate::log::redact;

/// The route.
pub(super) const PATH: &str = "/v1/events";

/// What a subscriber may choose from.
const TOPICS: &[&str] = &["lifecycle", "warning", "origins", "sessions", "proxies", "note"];

/// The daemon-wide stream.
pub(super) type Events = Hub<Viewer>;

/// Who reads a stream.
#[derive(Debug)]
pub(super) struct Viewer {
    caller: Caller,
    listener: Listener,
    /// An open stream counts as activity.
    _open: Open,
}

/// What may be told of whoever reads a stream.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Listener {
    since: String,
    /// The web origin of the page that opened it, if the browser named one and it is not that of the page host (BROW-41).
    origin: Option<String>,
    /// What the program calls itself.
    agent: Option<String>,
    is_page: bool,
    /// Whether it was opened by the bearer that asks.
    is_own: bool,
}

/// Everybody who listens, as told to `caller`.
pub(super) fn listeners(app: &App, caller: &Caller) -> Vec<Listener> {
    app.events
        .audience(|viewer| Listener { is_own: viewer.caller == *caller, ..viewer.listener.clone() })
}

/// The log of one launch.
pub(super) fn log(epoch: u32) -> Events {
    Hub::new(epoch, TOPICS, Limits::default())
}

/// Appends what has happened; `None` once the streams have ended.
fn append(app: &App, topic: &str, data: &(impl Serialize + ?Sized)) -> Option<EventId> {
    app.events
        .append(topic, data)
        .expect("JSON values are JSON, so is what a client sent as such, and the log is in memory")
}

/// Logs a warning, and sends it to every subscriber, with the origin that it is about. The message holds no secret.
pub(super) fn warn(app: &App, code: &str, message: &str, origin: Option<&str>) {
    tracing::warn!(code, origin, message);
    let mut data = json!({"code": code, "message": message});
    if let Some(origin) = origin {
        data["origin"] = origin.into();
    }
    append(app, "warning", &data);
}

/// Tells every subscriber what has become of the daemon itself.
pub(super) fn change(app: &App, what: &str) {
    append(app, "lifecycle", &json!({"what": what}));
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    topics: Option<String>,
    after: Option<String>,
}

fn ended() -> Response {
    refuse(
        StatusCode::SERVICE_UNAVAILABLE,
        "draining",
        "this daemon stands down; read the registration again",
    )
}

/// `GET /v1/events[?topics=…][&after=…]`.
pub(super) async fn subscribe(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let Query(wanted) = wanted.map_err(|_| invalid("the query is not the one that this route takes"))?;
    let last = headers.get_all("last-event-id").iter().map(HeaderValue::as_bytes);
    let selection = Selection::parse(wanted.topics.as_deref(), wanted.after.as_deref(), last)
        .map_err(|error| invalid(error.to_string()))?;
    // CRED-9: `/v1/status` shows these to other clients.
    let text = |name: HeaderName| Some(redact(headers.get(name)?.to_str().ok()?).chars().take(200).collect());
    let page_host = app.handle.page_host().map(PageHost::expose);
    let is_shown = |origin: &String| page_host.is_none_or(|page_host| !origin.contains(page_host));
    let viewer = Viewer {
        listener: Listener {
            since: rfc3339(SystemTime::now()),
            origin: text(ORIGIN).filter(is_shown),
            agent: text(USER_AGENT),
            is_page: matches!(caller, Caller::Page { .. }),
            is_own: true,
        },
        caller,
        _open: app.activity.begin(Kind::Stream).0,
    };
    match app.events.subscribe(viewer, &selection) {
        Ok(subscriber) => Ok(subscriber.into_response().map(Body::new)),
        // STR-6: it began to stand down after this request was let in.
        Err(SubscribeError::Ended) => Err(ended()),
        Err(refused @ SubscribeError::UnknownTopic) => {
            Err(invalid(format!("{refused}; there are {}", TOPICS.join(", "))))
        }
    }
}

/// A note as it came: no number in it loses a digit (STR-7).
#[derive(Deserialize)]
pub(super) struct Note {
    topic: String,
    data: Box<RawValue>,
}

/// `POST /v1/events`: a note that every subscriber sees (STR-7 to STR-9, STR-31).
pub(super) async fn note(State(app): State<Arc<App>>, Payload(note): Payload<Note>) -> Response {
    if note.topic != "note" {
        return invalid("the topic that clients may post to is note");
    }
    match append(&app, "note", &note.data) {
        Some(id) => (StatusCode::CREATED, Json(json!({"id": id.to_string()}))).into_response(),
        None => ended(),
    }
}

/// Tells every subscriber that the daemon is ready, and when it stands down; then ends the streams (STR-28, STR-29).
pub(super) async fn lifecycle(app: Arc<App>) {
    let reason = tokio::select! {
        biased;
        reason = app.handle.draining() => reason,
        () = app.handle.published() => {
            change(&app, "ready");
            app.handle.draining().await
        }
    };
    let why = match reason {
        Reason::Displaced => "displaced",
        Reason::RecordRemoved => "record-removed",
        Reason::DirectoryGone => "directory-removed",
        Reason::Stopped | Reason::Yielded | Reason::Unreachable | Reason::Failed => {
            app.cause.get().copied().unwrap_or("signal")
        }
    };
    append(&app, "lifecycle", &json!({"what": "draining", "reason": why}));
    app.events.end(End::of(reason, &StateDir::at(app.handle.state_dir())));
}
