//! Who is let in: one word that says how many requests are open, and whether any more are taken. Every decision is one
//! atomic step on it, so that no request slips in between "nothing is open" and "closed". `tests/it/loom.rs` runs this
//! very file under every interleaving.

use super::sync::{AtomicUsize, Ordering};

const CLOSED: usize = 1;
const ONE: usize = 2;

/// The open requests, and whether it is still open for more.
#[derive(Debug)]
pub(crate) struct Admission(AtomicUsize);

impl Admission {
    /// Returns one that is open and empty.
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Lets one more request in; returns `false` if it is closed (CONV-10).
    pub(crate) fn enter(&self) -> bool {
        self.step(|word| (word & CLOSED == 0).then_some(word + ONE))
    }

    /// Notes that one request has ended; returns `true` if it was the last, and no other comes.
    pub(crate) fn leave(&self) -> bool {
        self.0.fetch_sub(ONE, Ordering::AcqRel) == ONE | CLOSED
    }

    /// Lets no request in any more.
    pub(crate) fn close(&self) {
        self.0.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Closes if no more than `allowed` requests are open (the one that asks for it is one); returns `false` if there are more.
    pub(crate) fn close_if_idle(&self, allowed: usize) -> bool {
        self.step(|word| (word & CLOSED == 0 && word / ONE <= allowed).then_some(word | CLOSED))
    }

    /// Whether new work is refused.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire) & CLOSED != 0
    }

    /// How many requests are open.
    pub(crate) fn open(&self) -> usize {
        self.0.load(Ordering::Acquire) / ONE
    }

    fn step(&self, step: impl FnMut(usize) -> Option<usize>) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).is_ok()
    }
}
