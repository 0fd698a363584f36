//! The rate limit on handshakes that fail to authenticate.

use std::time::Instant;

/// How many handshakes that fail to authenticate are answered one by one; beyond it they are told to come back later.
/// What authenticates is never counted (PER-31, PER-32).
pub(super) struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    const BURST: f64 = 1000.0;
    const PER_SECOND: f64 = 200.0;

    pub(super) const fn full(now: Instant) -> Self {
        Self { left: Self::BURST, at: now }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let regained = now.saturating_duration_since(self.at).as_secs_f64() * Self::PER_SECOND;
        *self = Self { left: (self.left + regained).min(Self::BURST), at: now };
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn budget_is_spent_and_regained_up_to_its_burst() {
        let start = Instant::now();
        let mut budget = Budget::full(start);
        let spend = |budget: &mut Budget, now| (0..2000).take_while(|_| budget.take(now)).count();
        assert_eq!(spend(&mut budget, start), 1000);
        assert_eq!(spend(&mut budget, start + Duration::from_secs(1)), 200);
        assert_eq!(spend(&mut budget, start + Duration::from_hours(1)), 1000);
    }
}
