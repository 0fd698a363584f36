//! Tickets: each stands in for the credential once and for a moment. No I/O but the system's random source, no clock.
//! `tests/it/loom.rs` runs this very file.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

use super::host::Host;
use super::secret::{Secret, fresh_id};
use super::sync::{Mutex, MutexGuard};

/// How long a ticket works (BROW-3).
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);
/// How many tickets are held; one more, and the oldest is forgotten. Those that are used or late are held as well: a
/// second use is known as one, whenever it comes (BROW-34).
pub const MAX_TICKETS: usize = 64;

/// What a ticket was issued for (BROW-4).
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "the specification closes the list")]
pub enum Purpose {
    /// The daemon's own page.
    Page {
        /// The host at which the ticket is redeemed (BROW-39).
        host: Host,
    },
    /// A page of another origin.
    Handoff {
        /// The serialised origin that the ticket is bound to.
        origin: String,
    },
}

/// Why a ticket does not admit. Both are answered alike (BROW-6).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedeemError {
    /// It was presented once before: the user ought to know that another process may have it (BROW-34).
    #[error("the ticket was used")]
    Used(Purpose),
    /// It is late, is for another purpose, was presented twice before (BROW-47), or never existed.
    #[error("there is no such ticket")]
    Unknown,
}

/// A new ticket.
#[derive(Debug)]
pub struct IssuedTicket {
    /// The id for [`Tickets::state`], which is not secret: 16 lowercase hexadecimal digits.
    pub id: Arc<str>,
    /// The ticket itself.
    pub secret: Secret,
}

/// The state of a ticket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TicketState {
    /// What it was issued for.
    pub purpose: Purpose,
    /// Whether it has admitted a request.
    pub is_redeemed: bool,
}

/// The tickets of one launch.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<VecDeque<Held>>);

#[derive(Debug)]
struct Held {
    id: Arc<str>,
    secret: Secret,
    issued: Instant,
    presented: Presented,
    state: TicketState,
}

/// How often a ticket was presented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presented {
    Never,
    Once,
    Again,
}

impl Held {
    fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.issued) > TICKET_LIFETIME
    }
}

impl Tickets {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<Held>> {
        // Tickets are pushed and popped whole, and marking one is one store.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Issues a ticket (BROW-1). If [`MAX_TICKETS`] are held, the oldest is forgotten.
    ///
    /// # Panics
    ///
    /// Panics if the system has no random source.
    pub fn issue(&self, purpose: Purpose, now: Instant) -> IssuedTicket {
        let (id, secret) = (fresh_id(), Secret::fresh());
        let mut held = self.held();
        if held.len() == MAX_TICKETS {
            held.pop_front();
        }
        held.push_back(Held {
            id: id.clone(),
            secret: secret.clone(),
            issued: now,
            presented: Presented::Never,
            state: TicketState { purpose, is_redeemed: false },
        });
        IssuedTicket { id, secret }
    }

    /// Returns the state of a ticket; `None` if it is late, was revoked or never existed.
    pub fn state(&self, id: &str, now: Instant) -> Option<TicketState> {
        let held = self.held();
        let ticket = held.iter().find(|ticket| *ticket.id == *id && !ticket.is_late(now))?;
        Some(ticket.state.clone())
    }

    /// Redeems a ticket. It can admit only the first request that presents it (BROW-2), and is spent whether it does or not:
    /// if it is presented for another purpose it has leaked, and its owner gets no second try (BROW-33, BROW-39).
    ///
    /// # Errors
    ///
    /// Fails if the ticket was used, is late or for another purpose, or never existed.
    pub fn redeem(&self, text: &str, purpose: &Purpose, now: Instant) -> Result<(), RedeemError> {
        let mut held = self.held();
        // Every ticket is compared, each in constant time: how long it takes tells nothing about any of them.
        let mut found = None;
        for ticket in held.iter_mut() {
            if bool::from(ticket.secret.expose().as_bytes().ct_eq(text.as_bytes())) {
                found = Some(ticket);
            }
        }
        let ticket = found.ok_or(RedeemError::Unknown)?;
        match ticket.presented {
            Presented::Never => ticket.presented = Presented::Once,
            Presented::Once => {
                ticket.presented = Presented::Again;
                return Err(RedeemError::Used(ticket.state.purpose.clone()));
            }
            Presented::Again => return Err(RedeemError::Unknown),
        }
        if ticket.is_late(now) || ticket.state.purpose != *purpose {
            return Err(RedeemError::Unknown);
        }
        ticket.state.is_redeemed = true;
        Ok(())
    }

    /// Revokes the tickets that were not presented yet (CRED-17). The others admit nothing more, and stay known as used.
    pub fn revoke(&self) {
        self.held().retain(|ticket| ticket.presented != Presented::Never);
    }
}
