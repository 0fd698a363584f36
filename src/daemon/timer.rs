//! The timer of one connection. `hyper` drops its future at each request and asks for another; a timer of the runtime that was
//! set for an earlier deadline is kept, and set again only when it has gone off.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt;
use tokio::time::{Sleep, sleep_until};

/// The runtime's timer while no future of `hyper` has it.
type Kept = Arc<Mutex<Option<Pin<Box<Sleep>>>>>;

/// The timer of one connection, which waits for one deadline at a time.
#[derive(Clone, Default)]
pub(super) struct Timer(Kept);

impl rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        let sleep = lock(&self.0).take().filter(|sleep| sleep.deadline() <= deadline.into());
        Box::pin(Lent {
            sleep: Some(sleep.unwrap_or_else(|| Box::pin(sleep_until(deadline.into())))),
            deadline,
            kept: self.0.clone(),
        })
    }
}

/// A wait for one deadline.
struct Lent {
    /// `None` once this is dropped.
    sleep: Option<Pin<Box<Sleep>>>,
    deadline: Instant,
    kept: Kept,
}

impl Future for Lent {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline.into();
        let sleep = self.sleep.as_mut().expect("it is there until the drop");
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

impl rt::Sleep for Lent {}

impl Drop for Lent {
    fn drop(&mut self) {
        *lock(&self.kept) = self.sleep.take();
    }
}

fn lock(kept: &Mutex<Option<Pin<Box<Sleep>>>>) -> MutexGuard<'_, Option<Pin<Box<Sleep>>>> {
    // Nothing that runs under this lock panics.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
