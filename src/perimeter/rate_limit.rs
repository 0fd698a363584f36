//! Rate limits: on handshakes that fail to authenticate, and on what strangers make the daemon write.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

/// A token bucket: `burst` at once, and `per_second` after that.
pub(super) struct Budget {
    burst: f64,
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    const fn full(burst: f64, per_second: f64, now: Instant) -> Self {
        Self { burst, per_second, left: burst, at: now }
    }

    /// Returns the budget of handshakes that fail to authenticate; those beyond it are answered 503. What authenticates is
    /// never counted (PER-31, PER-32).
    pub(super) const fn of_handshakes(now: Instant) -> Self {
        Self::full(1000.0, 200.0, now)
    }

    /// Returns the budget of log lines that requests that have not authenticated may cause: at most 100 in any minute (PER-47).
    const fn of_writes(now: Instant) -> Self {
        Self::full(50.0, 50.0 / 60.0, now)
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let regained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        (self.left, self.at) = ((self.left + regained).min(self.burst), now);
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

/// Takes one line from the budget of what requests that have not authenticated may make this process log, all at the level
/// `debug` (PER-47). Returns `false` if the line must not be written.
pub(crate) fn take_stranger_debug_line() -> bool {
    static LINES: LazyLock<Mutex<Budget>> = LazyLock::new(|| Mutex::new(Budget::of_writes(Instant::now())));
    tracing::enabled!(tracing::Level::DEBUG)
        && LINES.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn budget_is_spent_and_regained_up_to_its_burst() {
        let start = Instant::now();
        let mut budget = Budget::of_handshakes(start);
        let spend = |budget: &mut Budget, now| (0..2000).take_while(|_| budget.take(now)).count();
        assert_eq!(spend(&mut budget, start), 1000);
        assert_eq!(spend(&mut budget, start + Duration::from_secs(1)), 200);
        assert_eq!(spend(&mut budget, start + Duration::from_hours(1)), 1000);
    }

    #[test]
    fn strangers_write_at_most_100_in_any_minute() {
        let start = Instant::now();
        let mut budget = Budget::of_writes(start);
        let minute = (0..60).map(|second| start + Duration::from_secs(second));
        let spent: usize = minute.map(|now| (0..1000).filter(|_| budget.take(now)).count()).sum();
        assert!((90..=100).contains(&spent), "{spent}");
    }
}
