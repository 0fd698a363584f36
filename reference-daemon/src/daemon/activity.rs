//! What is open, when something last was, and the end of a daemon that nothing has used for long.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::App;

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

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Request,
    Stream,
}

/// The accepted requests and open streams. Every change wakes those that wait for one.
pub(super) struct Activity(Arc<watch::Sender<Work>>);

impl Activity {
    pub(super) fn new() -> Self {
        let work = Work {
            requests: 0,
            streams: 0,
            last: Instant::now(),
            last_at: SystemTime::now(),
        };
        Self(Arc::new(watch::channel(work).0))
    }

    pub(super) fn now(&self) -> Work {
        *self.0.borrow()
    }

    /// Counts until the returned guard is dropped; what was open before comes with it.
    pub(super) fn begin(&self, kind: Kind) -> (Open, Work) {
        let before = self.now();
        touch(&self.0, kind, |count| count + 1);
        (Open(self.0.clone(), kind), before)
    }
}

/// One open request or stream.
#[derive(Debug)]
pub(super) struct Open(Arc<watch::Sender<Work>>, Kind);

impl Drop for Open {
    fn drop(&mut self) {
        touch(&self.0, self.1, |count| count - 1);
    }
}

fn touch(work: &watch::Sender<Work>, kind: Kind, change: impl FnOnce(usize) -> usize) {
    work.send_modify(|work| {
        let count = match kind {
            Kind::Request => &mut work.requests,
            Kind::Stream => &mut work.streams,
        };
        *count = change(*count);
        (work.last, work.last_at) = (Instant::now(), SystemTime::now());
    });
}

/// Stops the daemon once nothing was open for `timeout`, by the monotonic clock: a laptop that slept was not idle
/// (LIFE-2, LIFE-5, LIFE-8).
pub(super) async fn idle_out(app: Arc<App>, timeout: Duration) {
    let mut work = app.activity.0.subscribe();
    loop {
        let now = *work.borrow_and_update();
        tokio::select! {
            biased;
            changed = work.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(now.last + timeout), if now.is_idle() => {
                // LIFE-9: a request that was let in at this moment is served first.
                if app.stop_if_idle("idle", 0) {
                    tracing::info!(idle_seconds = timeout.as_secs(), "idle");
                    return;
                }
                if work.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}
