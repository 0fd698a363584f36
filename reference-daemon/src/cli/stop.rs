//! `stop` and `restart`.

use clap::Args;
use local_daemon::client::{Connection, Mode, Restarted, StopError, Stopped};
use serde_json::json;

use super::launch::launch;
use super::{Context, note};
use crate::error::Error;

#[derive(Args)]
pub(super) struct Stop {
    /// Stop it only where nothing is open: no stream, no request
    #[arg(long, conflicts_with = "force")]
    if_idle: bool,

    /// Kill a daemon that proved itself, took the request and is not gone in time; never in another pid namespace
    #[arg(long)]
    force: bool,
}

impl Stop {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        let how = local_daemon::client::Stop::new().if_idle(self.if_idle).force(self.force);
        if let Some(Stopped { id, pid, url, forced, .. }) = context.client.stop(&how)? {
            let how = if forced { "ended by force" } else { "stopped" };
            let json = json!({"id": id, "pid": pid, "url": url, "forced": forced});
            context.answer(&format!("{how}: pid {pid}, {url}"), "stopped", json)?;
        } else {
            let text = format!("no daemon is running in {}", context.state_dir());
            context.answer(&text, "not-running", json!({}))?;
        }
        Ok(0)
    }
}

/// Stops and starts (CONN-36). The new daemon has the mode of the old one.
pub(super) fn restart(context: &Context) -> Result<u8, Error> {
    let mode = |running: &mut Connection| Some(running.status().ok()?.mode);
    let manual = launch(context, "manual", false)?;
    let auto = launch(context, "auto", false)?;
    let restarted = context.client.restart_with(|running| match running.and_then(mode) {
        Some(Mode::Auto) => auto,
        _ => manual,
    })?;
    let Restarted { connection, before, .. } = restarted;
    if let Err(error @ (StopError::StillRuns { .. } | StopError::Request(_))) = before {
        note(&format!("{error}; a new one was started"));
    }
    context.ready(&connection)?;
    Ok(0)
}
