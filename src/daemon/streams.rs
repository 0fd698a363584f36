//! The event streams to which a daemon appends what becomes of it, and which it ends.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use local_daemon_proto::claim::Reason;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::state_directory::{FileError, FileErrorKind, StateDir};
use crate::streams::{End, Hub, Limits};

/// The topic of what becomes of the daemon itself.
pub(super) const LIFECYCLE: &str = "lifecycle";

/// How long the file of a log may be locked by the daemon that was displaced. It gives the file up as soon as it sees the new
/// record, so that this ends only on one that hangs.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before the file is tried again.
const TAKEOVER_PAUSE: Duration = Duration::from_millis(5);

/// Opens the file of a log as soon as no other process appends to it.
pub(super) async fn take_over(hub: &Hub, path: &Path, limits: Limits) -> Result<(), FileError> {
    let ends = Instant::now() + TAKEOVER_TIMEOUT;
    loop {
        match hub.load(path, limits) {
            Err(FileError { kind: FileErrorKind::Locked, .. }) if Instant::now() < ends => {
                sleep(TAKEOVER_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// The hubs that the daemon ends.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<Followed>);

#[derive(Debug, Default)]
struct Followed {
    /// A stream may end before the daemon does.
    hubs: Vec<Weak<Hub>>,
    is_ready: bool,
    end: Option<End>,
}

impl Followed {
    fn tell(&self, data: &Value) {
        self.hubs.iter().filter_map(Weak::upgrade).for_each(|hub| tell(&hub, data));
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Followed> {
        // No holder of this lock panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, hub: &Arc<Hub>) {
        let mut followed = self.lock();
        if followed.is_ready {
            tell(hub, &json!({"what": "ready"}));
        }
        if let Some(end) = followed.end {
            hub.end(end);
        }
        followed.hubs.retain(|hub| hub.strong_count() > 0);
        followed.hubs.push(Arc::downgrade(hub));
    }

    /// Tells every stream that the daemon is published.
    pub(super) fn ready(&self) {
        let mut followed = self.lock();
        followed.is_ready = true;
        followed.tell(&json!({"what": "ready"}));
    }

    pub(super) fn credential_rotated(&self) {
        self.lock().tell(&json!({"what": "credential-rotated"}));
    }

    /// Ends every stream (STR-28, STR-29). `cause` is what asked the daemon to stop.
    pub(super) fn end(&self, reason: Reason, cause: &str, state_dir: &StateDir) {
        let end = End::of(reason, state_dir);
        let why = match reason {
            Reason::Displaced => "displaced",
            Reason::RecordRemoved => "record-removed",
            Reason::DirectoryGone => "directory-removed",
            _ => cause,
        };
        let mut followed = self.lock();
        followed.end = Some(end);
        followed.tell(&json!({"what": "draining", "reason": why}));
        followed.hubs.iter().filter_map(Weak::upgrade).for_each(|hub| hub.end(end));
    }
}

fn tell(hub: &Hub, data: &Value) {
    if !hub.topics().contains(&LIFECYCLE) {
        return;
    }
    if let Err(error) = hub.append(LIFECYCLE, data) {
        tracing::warn!(%error, "a change of the daemon is missing in the file of a log");
    }
}
