//! The clients of the daemon under load: those that send, those that listen, and what they have seen.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault, Request, probe_with_proof};
use local_daemon_harness::process::Proc;
use local_daemon_harness::proof;
use local_daemon_harness::sse::EventStream;

use super::usage;
use crate::fixtures::stream::{Poster, follow, split};
use crate::soak::MOST_TEXTS;
use crate::soak::connections::{open_stream, soon};
use crate::stage::ReadyDaemon;

/// A stream that is taken up again has had so many events.
const TAKEN_UP: u64 = 100;

/// What those who send and those who listen share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) requests: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) peak: AtomicU64,
    /// Nobody sends any more.
    pub(super) is_over: AtomicBool,
    /// Nobody listens any more.
    pub(super) is_quiet: AtomicBool,
    notes: Mutex<Ledger>,
}

/// Each note from both sides: whichever is seen first waits for the other.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) accepted: u64,
    /// Accepted, and not on the stream yet: what was posted, by the event's number.
    pub(super) awaited: HashMap<u64, u64>,
    /// On the stream, and not answered yet.
    early: HashMap<u64, u64>,
    pub(super) wrong: Vec<String>,
}

impl Ledger {
    fn wrong(&mut self, seen: String) {
        if self.wrong.len() < MOST_TEXTS {
            self.wrong.push(seen);
        }
    }

    fn accept(&mut self, seq: u64, note: u64) {
        self.accepted += 1;
        match self.early.remove(&seq) {
            Some(seen) if seen == note => {}
            Some(seen) => self.wrong.push(format!("event {seq} is note {note}, and came as {seen}")),
            None => drop(self.awaited.insert(seq, note)),
        }
    }

    fn see(&mut self, seq: u64, note: u64) {
        match self.awaited.remove(&seq) {
            Some(posted) if posted == note => {}
            Some(posted) => self.wrong.push(format!("event {seq} is note {posted}, and came as {note}")),
            None => drop(self.early.insert(seq, note)),
        }
    }

    /// The numbers up to this one are gone, and the stream was told so.
    fn forgive(&mut self, first: u64) {
        self.awaited.retain(|seq, _| *seq >= first);
    }
}

impl Shared {
    pub(super) fn notes(&self) -> MutexGuard<'_, Ledger> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, is_answered: bool) {
        if is_answered {
            self.requests.fetch_add(1, Relaxed);
        } else {
            self.refused.fetch_add(1, Relaxed);
            // A daemon that is out of descriptors is not asked again at once, as nobody would.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wrong(&self, seen: String) {
        self.notes().wrong(seen);
    }
}

pub(super) fn shakes_hands(live: &ReadyDaemon, shared: &Shared) {
    while !shared.is_over.load(Relaxed) {
        let answer = probe_with_proof(&live.target, &live.credential, &proof::nonce(), soon());
        match answer {
            Ok(answer) if answer.response.status == 200 => {
                if answer.proven().is_none_or(|handshake| handshake.id != live.record.id) {
                    shared.wrong("a handshake was answered 200 without its proof".to_owned());
                }
                shared.count(true);
            }
            _ => shared.count(false),
        }
    }
}

pub(super) fn reads(address: SocketAddr, read: &Request, shared: &Shared) {
    let mut connection = None;
    while !shared.is_over.load(Relaxed) {
        let answer = on(&mut connection, address, read);
        shared.count(answer.is_ok_and(|status| status == 200));
    }
}

/// One request on a connection that is kept, or a new one.
fn on(kept: &mut Option<Connection>, address: SocketAddr, request: &Request) -> Result<u16, HttpFault> {
    let deadline = soon();
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(address, deadline)?,
    };
    let answer = connection.exchange(&request.bytes(), deadline)?;
    if !answer.closes {
        *kept = Some(connection);
    }
    Ok(answer.status)
}

pub(super) fn posts(mut poster: Poster, place: u64, shared: &Shared) {
    // Two of them never post the same.
    let mut note = place;
    while !shared.is_over.load(Relaxed) {
        note += 2;
        let answered = poster.try_note(&note.to_string());
        let seq = answered.ok().as_deref().and_then(split).map(|(_, seq)| seq);
        if let Some(seq) = seq {
            shared.notes().accept(seq, note);
        }
        shared.count(seq.is_some());
    }
}

/// Follows the stream. Where that ends, or every now and then where `is_fickle`, it goes on after the last event.
pub(super) fn listens(
    address: SocketAddr,
    request: &Request,
    mut stream: Option<EventStream>,
    is_fickle: bool,
    shared: &Shared,
) {
    let mut last: Option<String> = None;
    while !shared.is_quiet.load(Relaxed) {
        let Some(open) = &mut stream else {
            stream = open_stream(address, request, last.as_deref());
            shared.count(stream.is_some());
            continue;
        };
        let mut count = 0;
        let seen = follow(open, Instant::now() + Duration::from_millis(100), |_| {
            count += 1;
            count == TAKEN_UP
        });
        for event in &seen.events {
            if event.name == "gap" {
                shared.gaps.fetch_add(1, Relaxed);
                if let Some(first) = event.first() {
                    shared.notes().forgive(first);
                }
                last = None;
            }
            let Some(id) = &event.id else { continue };
            let (before, now) = (last.as_deref().and_then(split), split(id));
            if let (Some((_, before)), Some((_, now))) = (before, now)
                && now != before + 1
            {
                shared.wrong(format!("after event {before} came {now}"));
            }
            if let (Some((_, seq)), Some(note), false) = (now, event.payload().as_u64(), is_fickle) {
                shared.notes().see(seq, note);
            }
            last = Some(id.clone());
        }
        if seen.ending.is_some() || is_fickle && seen.found {
            stream = None;
        }
    }
}

/// Looks at what the daemon has.
pub(super) fn watches(process: &Proc, shared: &Shared) {
    while !shared.is_quiet.load(Relaxed) {
        shared.peak.fetch_max(usage(process).memory, Relaxed);
        std::thread::sleep(Duration::from_millis(100));
    }
}
