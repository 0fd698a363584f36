//! `stop` and `restart`.

use std::io;
use std::time::Duration;

use clap::Args;
use local_daemon::client::{Connection, Process, Request, Response};
use local_daemon::connect::ConnectOutcome;
use local_daemon::daemon::DRAIN;
use local_daemon::registration::RecordRead;
use local_daemon::{ClaimId, LoopbackUrl};
use serde_json::{Value, json};

use super::launch::launch;
use super::status::answered;
use super::{Context, note};
use crate::error::Error;

/// How long a daemon may take to end after it has taken the request: its drain bound and a little more.
const END_BOUND: Duration = DRAIN.saturating_add(Duration::from_secs(2));
/// How long a process may take to go that was killed, or whose connection broke.
const GONE_BOUND: Duration = Duration::from_secs(2);
/// A restart may find a daemon that does not answer, and look at it three times before it is replaced.
const RESTART_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Args, Default)]
pub(super) struct Stop {
    /// Stop it only where nothing is open: no stream, no request
    #[arg(long, conflicts_with = "force")]
    if_idle: bool,

    /// Kill a daemon that proved itself, took the request and is not gone in time; never in another pid namespace
    #[arg(long)]
    force: bool,
}

/// A daemon that was stopped.
struct Stopped {
    id: ClaimId,
    pid: u32,
    url: LoopbackUrl,
    forced: bool,
}

impl Stop {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        if let Some(Stopped { id, pid, url, forced }) = stop(context, self)? {
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

/// Stops the daemon that proves itself, and waits until its process is gone (LIFE-25, LIFE-26); `None`: none was
/// running.
fn stop(context: &Context, how: &Stop) -> Result<Option<Stopped>, Error> {
    let mut connection = match context.client.connect() {
        Ok(connection) => connection,
        Err(failure) if matches!(failure.outcome, ConnectOutcome::Absent | ConnectOutcome::Stale) => {
            return Ok(None);
        }
        Err(failure) => return Err(failure.into()),
    };
    let (id, url) = (connection.registration().id, connection.registration().url);
    let pid = connection.handshake().pid.get();
    // CONV-31: taken before the request, while the daemon is there, so that no other process can get this pid unnoticed. A
    // graceful stop goes on without it, because not every system has it.
    let process = connection.process();
    let gone = |connection: &Connection, bound| match &process {
        Ok(process) => {
            process.wait(bound).map_err(|source| Error::Kill { url: url.to_string(), pid, source })
        }
        Err(_) => Ok(connection.wait_gone(context.directory(), bound)),
    };
    let stopped = |forced| Ok(Some(Stopped { id, pid, url, forced }));

    let stop = Request::post("/v1/shutdown").json(&json!({"id": id, "if_idle": how.if_idle}))?;
    let failed = match connection.send(stop) {
        // 503: it stands down already.
        Ok(answer) if matches!(answer.status, 202 | 503) => None,
        Ok(answer) if how.if_idle && is_busy(&answer) => {
            return Err(Error::InUse { url: url.to_string(), pid });
        }
        Ok(answer) => return Err(answered(&connection, "/v1/shutdown", &answer)),
        // Another stop may have been faster.
        Err(error) => Some(error),
    };
    let bound = if failed.is_some() { GONE_BOUND } else { END_BOUND };
    if gone(&connection, bound)? {
        return stopped(false);
    }
    if how.force {
        let killed = process.as_ref().map_err(|source| io::Error::new(source.kind(), source.to_string()));
        killed
            .and_then(Process::kill)
            .map_err(|source| Error::Kill { url: url.to_string(), pid, source })?;
        if gone(&connection, GONE_BOUND)? {
            return stopped(true);
        }
    }
    Err(match failed {
        Some(error) if !how.force => error.into(),
        _ => Error::StillRuns { url: url.to_string(), pid, after: bound },
    })
}

fn is_busy(answer: &Response) -> bool {
    answer.status == 409 && answer.json::<Value>().is_ok_and(|problem| problem["code"] == "busy")
}

/// Stops and starts (CONN-36). A daemon that does not answer is not waited for: the new one's record displaces it.
pub(super) fn restart(context: &Context) -> Result<u8, Error> {
    let launch = launch(context, "manual", false)?;
    let client = context.client.clone().deadline(RESTART_DEADLINE).ignore_budget(true);
    // CONN-50
    client.check_launch(&launch)?;
    let before = match context.directory().read_record().0 {
        RecordRead::Record(record) => Some(record.id),
        _ => None,
    };
    match stop(context, &Stop::default()) {
        Ok(_) => {}
        Err(Error::Connect { failure, .. })
            if matches!(
                failure.outcome,
                ConnectOutcome::Busy | ConnectOutcome::Foreign | ConnectOutcome::Incompatible(_)
            ) => {}
        Err(error @ (Error::StillRuns { .. } | Error::Request(_))) => {
            note(&format!("{error}; a new one is started"));
        }
        Err(error) => return Err(error),
    }
    let connection = client.connect_or_spawn(&launch)?;
    if Some(connection.registration().id) == before {
        let url = connection.registration().url.to_string();
        return Err(Error::NotRestarted { url, pid: connection.handshake().pid.get() });
    }
    context.ready(&connection)?;
    Ok(0)
}
