//! Waiting: always on a cause, always with a deadline.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The instant that lies `millis` milliseconds ahead: a deadline.
pub fn ms(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

/// Time left until `deadline`, or `None` once it has passed.
pub fn left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// The pause between two looks of [`until`].
const POLL: Duration = Duration::from_millis(2);

/// Looks again and again until `look` finds something or the deadline passes; looks at least once.
///
/// Only for causes that nothing announces: an entry below `/proc`, a port that begins to answer, an orphan's end.
/// Whatever can be subscribed to (a file, an exit, output, a ledger) has a wait of its own.
pub fn until<T>(deadline: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::sleep(left(deadline)?.min(POLL));
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not hide what was observed so far.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// State that one thread updates and others wait on.
#[derive(Debug, Default)]
pub(crate) struct Shared<T>(Arc<(Mutex<T>, Condvar)>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new((Mutex::new(value), Condvar::new())))
    }

    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut lock(&self.0.0));
        self.0.1.notify_all();
        result
    }

    pub(crate) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&lock(&self.0.0))
    }

    /// Waits until `look` finds something in the state, or the deadline passes.
    pub(crate) fn wait<R>(&self, deadline: Instant, mut look: impl FnMut(&T) -> Option<R>) -> Option<R> {
        let mut state = lock(&self.0.0);
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            let left = left(deadline)?;
            state = self.0.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_wait_ends_with_its_cause_and_with_its_deadline() {
        let shared = Shared::new(0);
        let writer = shared.clone();
        let thread = std::thread::spawn(move || writer.update(|n| *n = 7));
        assert_eq!(shared.wait(ms(5_000), |n| (*n == 7).then_some(*n)), Some(7));
        assert_eq!(shared.wait(ms(1), |n| (*n == 8).then_some(())), None);
        thread.join().unwrap();
    }

    #[test]
    fn until_looks_at_least_once() {
        assert_eq!(until(Instant::now(), || Some(1)), Some(1));
        assert_eq!(until(Instant::now(), || None::<u8>), None);
    }
}
