//! `status`: what runs.

use std::time::Duration;

use serde_json::{json, to_value};

use super::Context;
use crate::error::Error;
use crate::render::render;

/// How long a daemon may drain or be silent before a look at it says so.
pub(super) const LOOK: Duration = Duration::from_secs(3);

pub(super) fn run(context: &Context) -> Result<u8, Error> {
    let mut connection = context.client.clone().deadline(LOOK).connect()?;
    let status = to_value(connection.status()?).unwrap_or_default();
    let theirs = connection.handshake();
    let text = format!("{} is ready: pid {}\n\n{}", theirs.protocol, theirs.pid, render(&status));
    context.answer(&text, "ready", json!({ "status": status }))?;
    Ok(0)
}
