//! `POST /v1/shutdown`: a stop that names the daemon it means (LIFE-11 to LIFE-14).

use std::sync::Arc;

use axum::Extension;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::Context;
use super::json::Json;
use super::problem::Problem;

#[derive(Deserialize)]
pub(super) struct Shutdown {
    /// The id of the daemon that is meant.
    id: String,
    /// Only if nothing else is open.
    #[serde(default)]
    if_idle: bool,
}

pub(super) async fn shutdown(
    Extension(context): Extension<Arc<Context>>,
    Json(wanted): Json<Shutdown>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let id = context.handle.id().to_string();
    if wanted.id != id {
        let detail = "the request means another daemon than the one that answers";
        return Err(Problem::new(StatusCode::CONFLICT, "not_this_daemon", detail).with("id", id));
    }
    // LIFE-15: the look and the stop are one step, and this request is one of those that are open.
    if wanted.if_idle && !context.handle.stop_if_idle(1) {
        let work = context.activity.now();
        let requests = work.requests.saturating_sub(1);
        let active = json!({"requests": requests, "streams": work.streams, "sessions": 0, "proxies": 0});
        return Err(Problem::new(StatusCode::CONFLICT, "busy", "something is open").with("active", active));
    }
    if !wanted.if_idle {
        context.handle.stop();
    }
    Ok((StatusCode::ACCEPTED, Json(json!({"id": id, "state": "draining"}))))
}
