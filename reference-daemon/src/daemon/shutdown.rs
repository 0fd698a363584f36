//! `POST /v1/shutdown`: a stop that names the daemon it means (LIFE-11 to LIFE-14).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::body::{Payload, refuse_with};

#[derive(Deserialize)]
pub(super) struct Shutdown {
    /// The id of the daemon that is meant.
    id: String,
    /// Only where nothing else is open.
    #[serde(default)]
    if_idle: bool,
}

pub(super) async fn shutdown(State(app): State<Arc<App>>, Payload(wanted): Payload<Shutdown>) -> Response {
    let id = app.handle.id().to_string();
    if wanted.id != id {
        let detail = "the request means another daemon than the one that answers";
        return refuse_with(StatusCode::CONFLICT, "not_this_daemon", detail, "id", id.into());
    }
    // LIFE-15: the look and the stop are one step, and this request is one of those that are open.
    if wanted.if_idle && !app.stop_if_idle("requested", 1) {
        let work = app.activity.now();
        let requests = work.requests.saturating_sub(1);
        let active = json!({"requests": requests, "streams": work.streams, "sessions": 0, "proxies": 0});
        return refuse_with(StatusCode::CONFLICT, "busy", "something is open", "active", active);
    }
    if !wanted.if_idle {
        app.stop("requested");
    }
    (StatusCode::ACCEPTED, Json(json!({"id": id, "state": "draining"}))).into_response()
}
