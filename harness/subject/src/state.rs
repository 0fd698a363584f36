//! What the threads of a daemon share.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

pub(super) use super::streams::Log;
use crate::browser;
use crate::credential::Followed;
use crate::fault::broken;
use crate::origins::Allowlist;
use crate::reason::Reason;
use crate::registration::Record;
use crate::state_directory::StateDir;
use crate::strangers::Strangers;

/// How long open work may take to end, a little less than the drain bound.
const DRAIN: Duration = Duration::from_millis(9_500);

/// What the threads of a daemon share.
pub(super) struct Daemon {
    pub(super) directory: StateDir,
    pub(super) record: Record,
    pub(super) protocol: String,
    /// Whether it was told to yield.
    pub(super) yields: bool,
    pub(super) address: SocketAddr,
    /// The page host, without a port.
    pub(super) page_host: Option<String>,
    pub(super) credential: Followed,
    pub(super) origins: Allowlist,
    pub(super) log: Log,
    pub(super) started_at: SystemTime,
    pub(super) began: Instant,
    /// Readable as soon as the daemon has to stand down.
    pub(super) wake: OwnedFd,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

/// What is going on in a daemon.
#[derive(Debug, Default)]
pub(super) struct State {
    standing_down: Option<Reason>,
    /// Whether the drain is cut short.
    hurried: bool,
    pub(super) connections: usize,
    pub(super) strangers: Strangers,
    pub(super) requests: usize,
    pub(super) streams: usize,
    pub(super) last_activity: Option<SystemTime>,
    /// Handshakes that were refused and not forgiven yet, and when the last one was.
    pub(super) refused: f64,
    pub(super) refused_at: Option<Instant>,
}

impl Daemon {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts of what is open, and lets the end of the drain know.
    pub(super) fn count<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify_all();
        changed
    }

    /// `host:port` of the record's `url`.
    pub(super) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Returns `host:port` of its own page, if there is a page host.
    pub(super) fn page_authority(&self) -> Option<String> {
        self.page_host.as_ref().map(|host| format!("{host}:{}", self.address.port()))
    }

    /// Why the daemon stands down, if it does.
    pub(super) fn standing_down(&self) -> Option<Reason> {
        self.state().standing_down.clone()
    }

    /// Begins the end, which is never taken back. Asked for a second time, it comes at once.
    pub(super) fn stand_down(&self, reason: Reason) {
        let _ = self.stand_down_unless(reason, |_| None::<()>);
    }

    /// The same, unless something that goes on is against it.
    pub(super) fn stand_down_unless<E>(
        &self,
        reason: Reason,
        against: impl FnOnce(&State) -> Option<E>,
    ) -> Result<(), E> {
        let mut state = self.state();
        if let Some(why) = against(&state) {
            return Err(why);
        }
        if state.standing_down.is_some() {
            state.hurried |= reason == Reason::Signal && !broken("CONV-20.once");
        } else {
            state.standing_down = Some(reason);
        }
        drop(state);
        self.changed.notify_all();
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }

    /// Reads what people may have changed in the state directory.
    pub(super) fn follow_files(&self) {
        if self.credential.current().1 {
            self.log.append("lifecycle", &json!({"what": "credential-rotated"}));
        }
        self.origins.refresh(&self.log);
        browser::sweep(&self.directory);
    }

    /// Waits until open work has ended, within the bound of the drain.
    pub(super) fn drain(&self) {
        let connections = broken("CONV-8.waits-for-connections");
        let bound = if connections || broken("CONV-8.no-bound") || broken("STR-30.for-ever") {
            Duration::from_hours(1)
        } else if broken("CONV-8.later") {
            DRAIN + Duration::from_secs(3)
        } else {
            DRAIN
        };
        let open = |state: &mut State| {
            !state.hurried && (state.requests + state.streams > 0 || connections && state.connections > 0)
        };
        let drained = self.changed.wait_timeout_while(self.state(), bound, open);
        drop(drained.unwrap_or_else(PoisonError::into_inner));
    }
}
