//! `GET /v1/status`: what the daemon says of itself (LIFE-18 to LIFE-21).

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Extension;
use serde::Serialize;

use super::activity::Work;
use super::app::Context;
use super::events::Listener;
use super::json::Json;
use crate::handshake::{self, State};
use crate::perimeter::{Caller, Origin};
use crate::registration::RecordRead;
use crate::state_directory::{self, StateDir};

#[derive(Serialize)]
pub(super) struct Status {
    protocol: String,
    version: String,
    pid: u32,
    id: String,
    url: String,
    state: State,
    mode: &'static str,
    capabilities: Vec<String>,
    started_at: String,
    uptime_seconds: u64,
    socket: Option<String>,
    active_requests: usize,
    streams: usize,
    sessions: usize,
    proxies: usize,
    last_activity: String,
    idle_timeout_seconds: Option<u64>,
    idle_deadline: Option<String>,
    memory_bytes: Option<u64>,
    log_path: Option<PathBuf>,
    spec: &'static str,
    origins: Vec<String>,
    listeners: Vec<Listening>,
}

#[derive(Serialize)]
struct Listening {
    #[serde(flatten)]
    listener: Listener,
    /// Whether the stream was opened by the bearer that asks.
    is_own: bool,
}

/// `before` is what was open, and when something last was, before this request.
pub(super) async fn status(
    Extension(context): Extension<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Extension(before): Extension<Work>,
) -> Json<Status> {
    let handle = &context.handle;
    let directory = StateDir::at(handle.state_dir());
    let work = context.activity.now();
    let requests = work.requests.saturating_sub(1);
    // Who has begun to stand down answers no such request any more; here it is about the record alone.
    let owner = matches!(directory.read_record().0, RecordRead::Record(record) if record.id == handle.id());
    let timeout = context.idle_timeout;
    let idle = requests == 0 && work.streams == 0;
    // The clock for idleness is monotonic; people read the wall's.
    let left = |timeout: Duration| timeout.saturating_sub(work.last.elapsed());
    let deadline = timeout.filter(|_| idle).and_then(|timeout| SystemTime::now().checked_add(left(timeout)));
    let listening = |listener: Listener| Listening { is_own: listener.caller == caller, listener };
    Json(Status {
        protocol: handle.protocol().to_string(),
        version: handle.version().to_owned(),
        pid: handle.pid(),
        id: handle.id().to_string(),
        url: handle.url().to_string(),
        state: if owner { State::Ready } else { State::Draining },
        mode: if timeout.is_some() { "auto" } else { "manual" },
        capabilities: handle.capabilities().to_vec(),
        started_at: rfc3339(handle.started_at()),
        uptime_seconds: context.started.elapsed().as_secs(),
        socket: None,
        active_requests: requests,
        streams: work.streams,
        sessions: 0,
        proxies: 0,
        last_activity: rfc3339(before.last_at),
        idle_timeout_seconds: timeout.as_ref().map(Duration::as_secs),
        idle_deadline: deadline.and_then(far_rfc3339),
        memory_bytes: resident(),
        log_path: log_path(&directory),
        spec: handshake::SPEC,
        origins: handle.origins().borrow().iter().map(Origin::to_string).collect(),
        listeners: context.activity.listeners().into_iter().map(listening).collect(),
    })
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// The same of a time that may be after the year 9999, which cannot be written so.
fn far_rfc3339(time: SystemTime) -> Option<String> {
    let mut text = String::new();
    write!(text, "{}", humantime::format_rfc3339_millis(time)).ok()?;
    Some(text)
}

/// Resident memory, if the platform tells it.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The log file of the state directory, if standard error goes there.
fn log_path(directory: &StateDir) -> Option<PathBuf> {
    let path = directory.file(state_directory::LOG);
    let (log, stderr) = (fs::metadata(&path).ok()?, fs::metadata("/dev/fd/2").ok()?);
    (log.dev() == stderr.dev() && log.ino() == stderr.ino()).then_some(path)
}
