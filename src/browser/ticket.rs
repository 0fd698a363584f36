//! Tickets: each stands in for the credential once and for a moment. No I/O but the system's random source, no clock.
//! `tests/loom.rs` runs this very file.

use std::{
    collections::VecDeque,
    fmt,
    sync::PoisonError,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::sync::{Mutex, MutexGuard};

/// How long a ticket works (BROW-3).
pub const LIFE: Duration = Duration::from_secs(30);
/// How many tickets are held; one more, and the oldest is forgotten.
pub const MOST: usize = 64;

/// What a ticket was issued for (BROW-4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The daemon's own page.
    Page,
    /// A page of another origin.
    Handoff {
        /// The serialised origin that the ticket is bound to.
        origin: String,
    },
}

/// The secret text of a ticket, 43 characters of base64url. `Debug` does not show it.
#[derive(Clone)]
pub struct Ticket(Zeroizing<String>);

impl Ticket {
    /// The text, for the one answer that hands it over.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a ticket does not admit. Whoever presents it is told the same for both (BROW-6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It did before: the user ought to know that somebody else has it.
    #[error("the ticket was used")]
    Used,
    /// It is late, for another purpose, or never was.
    #[error("there is no such ticket")]
    Unknown,
}

/// The tickets of one launch.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<VecDeque<Held>>);

struct Held {
    text: Zeroizing<String>,
    purpose: Purpose,
    issued: Instant,
    is_used: bool,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

impl Tickets {
    /// None.
    pub fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// The tickets that are not late; they were issued one after the other.
    fn at(&self, now: Instant) -> MutexGuard<'_, VecDeque<Held>> {
        // Tickets are pushed and popped whole, and marking one is one store.
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while held
            .front()
            .is_some_and(|oldest| now.saturating_duration_since(oldest.issued) > LIFE)
        {
            held.pop_front();
        }
        held
    }

    /// A new ticket of 256 bits from the system's random source (BROW-1).
    ///
    /// # Panics
    ///
    /// When the system has no random source.
    pub fn issue(&self, purpose: Purpose, now: Instant) -> Ticket {
        let mut bits = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bits).expect("the system has a random source");
        let text = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*bits));
        let mut held = self.at(now);
        if held.len() == MOST {
            held.pop_front();
        }
        held.push_back(Held {
            text: text.clone(),
            purpose,
            issued: now,
            is_used: false,
        });
        Ticket(text)
    }

    /// Redeems a ticket: whoever comes first is admitted, and nobody after (BROW-2). Presented for another purpose it is
    /// refused and stays as it is: only whoever it was issued for can use it up.
    ///
    /// # Errors
    ///
    /// It was used; it is late, for another purpose, or never was.
    pub fn redeem(&self, text: &str, purpose: &Purpose, now: Instant) -> Result<(), Refused> {
        let mut held = self.at(now);
        // Every ticket is compared, each in constant time: how long it takes tells nothing about any of them.
        let mut found = None;
        for ticket in held.iter_mut() {
            if bool::from(ticket.text.as_bytes().ct_eq(text.as_bytes())) {
                found = Some(ticket);
            }
        }
        match found {
            Some(ticket) if ticket.purpose != *purpose => Err(Refused::Unknown),
            Some(ticket) if ticket.is_used => Err(Refused::Used),
            Some(ticket) => {
                ticket.is_used = true;
                Ok(())
            }
            None => Err(Refused::Unknown),
        }
    }
}
