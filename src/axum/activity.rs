//! What is open, when something last was, and the end of a daemon that nothing has used for long.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Instant;

use super::events::Listener;
use crate::daemon::Handle;

/// When a daemon that could not be stopped as idle is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is open, and when something last was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) requests: usize,
    pub(super) streams: usize,
    pub(super) last: Instant,
    pub(super) last_at: SystemTime,
}

impl Work {
    fn is_idle(&self) -> bool {
        self.requests == 0 && self.streams == 0
    }
}

/// The accepted requests and open streams. Every change wakes those that wait for one.
#[derive(Debug)]
pub(super) struct Activity {
    work: watch::Sender<Work>,
    listeners: Mutex<BTreeMap<u64, Listener>>,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let work = Work {
            requests: 0,
            streams: 0,
            last: Instant::now(),
            last_at: SystemTime::now(),
        };
        Arc::new(Self { work: watch::channel(work).0, listeners: Mutex::default() })
    }

    pub(super) fn now(&self) -> Work {
        *self.work.borrow()
    }

    /// Counts a request until the returned guard is dropped; what was open before comes with it.
    pub(super) fn begin(self: &Arc<Self>) -> (Open, Work) {
        let before = self.now();
        self.change(|work| work.requests += 1);
        (Open { activity: self.clone(), stream: None }, before)
    }

    /// Returns the readers of open streams, in the order of their coming.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        self.seats().values().cloned().collect()
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<u64, Listener>> {
        // No holder of this lock panics half-way.
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Work)) {
        self.work.send_modify(|work| {
            change(work);
            (work.last, work.last_at) = (Instant::now(), SystemTime::now());
        });
    }

    /// Stops the daemon once nothing was open for `timeout`, by the monotonic clock: a laptop that slept was not idle
    /// (LIFE-2, LIFE-5, LIFE-8).
    pub(super) async fn idle_out(self: Arc<Self>, handle: Handle, timeout: Duration) {
        let mut work = self.work.subscribe();
        loop {
            let now = *work.borrow_and_update();
            tokio::select! {
                biased;
                changed = work.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(timeout.saturating_sub(now.last.elapsed())), if now.is_idle() => {
                    // LIFE-9: a request that was let in at this moment is served first.
                    if handle.stop_if_idle_for("idle", 0) {
                        tracing::info!(idle_seconds = timeout.as_secs(), "idle");
                        return;
                    }
                    // What has just ended may not have left yet, and changes nothing when it does.
                    let _ = tokio::time::timeout(AGAIN, work.changed()).await;
                }
            }
        }
    }
}

/// One open request or stream.
#[derive(Debug)]
pub(super) struct Open {
    activity: Arc<Activity>,
    /// The number of the listener, if this is a stream.
    stream: Option<u64>,
}

impl Open {
    /// Counts it as a stream from now on (LIFE-8).
    pub(super) fn become_stream(&mut self, listener: Listener) {
        let number = {
            let mut seats = self.activity.seats();
            let number = seats.last_key_value().map_or(0, |(last, _)| last + 1);
            seats.insert(number, listener);
            number
        };
        self.stream = Some(number);
        self.activity.change(|work| {
            work.requests -= 1;
            work.streams += 1;
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(number) = self.stream {
            self.activity.seats().remove(&number);
        }
        let is_stream = self.stream.is_some();
        self.activity.change(|work| {
            let count = if is_stream { &mut work.streams } else { &mut work.requests };
            *count -= 1;
        });
    }
}

/// A body that counts as open until it is dropped (LIFE-6).
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) body: Body,
    pub(super) _open: Open,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
