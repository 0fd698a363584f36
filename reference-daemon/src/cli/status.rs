//! `status`: what runs.

use std::time::Duration;

use local_daemon::client::{Connection, Response};
use serde_json::{Value, json};

use super::Context;
use crate::error::Error;
use crate::render::render;

/// How long a daemon may drain or be silent before a look at it says so.
pub(super) const LOOK: Duration = Duration::from_secs(3);

pub(super) fn run(context: &Context) -> Result<u8, Error> {
    let mut connection = context.client.clone().deadline(LOOK).connect()?;
    let answer = connection.get("/v1/status")?;
    if answer.status != 200 {
        return Err(answered(&connection, "/v1/status", &answer));
    }
    let status: Value = answer.json().unwrap_or_default();
    let theirs = connection.handshake();
    let text = format!("{} is ready: pid {}\n\n{}", theirs.protocol, theirs.pid, render(&status));
    context.answer(&text, "ready", json!({ "status": status }))?;
    Ok(0)
}

/// An answer that was not the one that was asked for.
pub(super) fn answered(connection: &Connection, path: &'static str, answer: &Response) -> Error {
    let problem: Value = answer.json().unwrap_or_default();
    let text = |member: &str| problem[member].as_str().unwrap_or("unknown").to_owned();
    Error::Answered {
        url: connection.registration().url.to_string(),
        path,
        status: answer.status,
        code: text("code"),
        detail: text("detail"),
    }
}
