//! What threads share inside a daemon, under every interleaving that the memory model allows. The files are the ones
//! that the crate compiles, with loom's atomics in place of the standard library's.
#![allow(dead_code, unreachable_pub)]

mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

#[path = "../../src/daemon/admission.rs"]
mod admission;

#[path = "../../src/browser/host.rs"]
mod host;
#[path = "../../src/streams/hub.rs"]
mod hub;
#[path = "../../src/streams/log.rs"]
mod log;
#[path = "../../src/browser/secret.rs"]
mod secret;
#[path = "../../src/browser/ticket.rs"]
mod ticket;

use std::future::poll_fn;
use std::time::Instant;

use admission::Admission;
use host::Host;
use hub::{Hub, Next, Selection, Subscriber};
use log::Limits;
use loom::future::block_on;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use ticket::{Purpose, RedeemError, Tickets};

const PAGE: Purpose = Purpose::Page { host: Host::Page };

/// A drain waits for what was let in before it, sees all of its work, and lets nobody in afterwards.
#[test]
fn a_drain_ends_when_the_last_that_was_let_in_has_left() {
    loom::model(|| {
        let admission = Arc::new(Admission::new());
        let work = Arc::new(AtomicUsize::new(0));
        let request = thread::spawn({
            let (admission, work) = (admission.clone(), work.clone());
            move || {
                let admitted = admission.enter();
                if admitted {
                    work.store(1, Ordering::Relaxed);
                }
                (admitted, admitted && admission.leave())
            }
        });
        admission.close();
        let drained = admission.open() == 0;
        assert!(!admission.enter(), "a request was let in after the close");
        let seen = work.load(Ordering::Relaxed);
        let (admitted, told) = request.join().unwrap();
        assert!(drained || told, "a drain that has to wait is told when it is over");
        assert!(!drained || !admitted || seen == 1, "the drain ended before the work that it waited for");
    });
}

/// Of two that leave a closed daemon, one is the last.
#[test]
fn one_of_two_is_the_last_to_leave() {
    loom::model(|| {
        let admission = Arc::new(Admission::new());
        assert!(admission.enter() && admission.enter());
        admission.close();
        let other = thread::spawn({
            let admission = admission.clone();
            move || admission.leave()
        });
        assert_ne!(admission.leave(), other.join().unwrap());
        assert_eq!(admission.open(), 0);
    });
}

/// An idle exit and a request that arrives at that moment: one of them wins, never both.
#[test]
fn an_idle_exit_never_takes_a_request_with_it() {
    loom::model(|| {
        let admission = Arc::new(Admission::new());
        let request = thread::spawn({
            let admission = admission.clone();
            move || admission.enter()
        });
        let exits = admission.close_if_idle(0);
        let admitted = request.join().unwrap();
        assert_ne!(exits, admitted, "exactly one of them has its way");
        assert_eq!(admission.open(), usize::from(admitted));
    });
}

/// Two conditional stops, each from within a request of its own: whoever stops is alone.
#[test]
fn a_stop_if_idle_is_alone() {
    loom::model(|| {
        let admission = Arc::new(Admission::new());
        let ask = |admission: &Admission| {
            let admitted = admission.enter();
            (admitted, admitted && admission.close_if_idle(1))
        };
        let other = thread::spawn({
            let admission = admission.clone();
            move || ask(&admission)
        });
        let (one, other) = (ask(&admission), other.join().unwrap());
        assert!(!(one.1 && other.0 || other.1 && one.0), "it stopped while the other was let in");
        assert!(one.1 || other.1 || one.0 && other.0);
    });
}

fn empty(events: usize) -> std::sync::Arc<Hub> {
    let limits = Limits { events, bytes: 1000 };
    std::sync::Arc::new(Hub::new(7, &["note"], limits))
}

/// Everything until the end: the numbers of the events, and 0 for each that a gap says is lost.
fn read_all(mut subscriber: Subscriber) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        match block_on(poll_fn(|context| subscriber.poll_next(context))) {
            Next::Frames(frames) => {
                let text = String::from_utf8(frames.to_vec()).unwrap();
                let ids = text.lines().filter_map(|line| line.strip_prefix("id: 00000007-"));
                seen.extend(ids.map(|seq| seq.parse::<u64>().unwrap()));
            }
            Next::Gap { first, after } => seen.extend((after.seq + 1..first.seq).map(|_| 0)),
            Next::End(_) => {}
            Next::Closed => return seen,
        }
    }
}

/// A subscriber that reads beside whoever appends sees everything once, in order, and its end: no wake-up is lost.
#[test]
fn a_subscriber_sees_every_event_once() {
    loom::model(|| {
        let hub = empty(10);
        let subscriber = hub.subscribe(&Selection::default()).unwrap();
        let writer = thread::spawn({
            let hub = hub.clone();
            move || {
                hub.append_line("note", b"1").unwrap();
                hub.append_line("note", b"2").unwrap();
                hub.end_with("end".into());
            }
        });
        assert_eq!(read_all(subscriber), [1, 2]);
        writer.join().unwrap();
        assert_eq!(hub.subscribers(), 0);
    });
}

/// Two that append beside each other get numbers of their own, and a subscriber both.
#[test]
fn two_events_at_once_are_both_delivered() {
    loom::model(|| {
        let hub = empty(10);
        let subscriber = hub.subscribe(&Selection::default()).unwrap();
        let append = |hub: &Hub| hub.append_line("note", b"1").unwrap().unwrap().seq;
        let other = thread::spawn({
            let hub = hub.clone();
            move || append(&hub)
        });
        let reader = thread::spawn(move || read_all(subscriber));
        let mut seqs = [append(&hub), other.join().unwrap()];
        seqs.sort_unstable();
        hub.end_with("end".into());
        assert_eq!((seqs, reader.join().unwrap()), ([1, 2], vec![1, 2]));
    });
}

/// A log that holds one event: whatever a subscriber did not get, it was told of.
#[test]
fn what_is_forgotten_meanwhile_is_told() {
    loom::model(|| {
        let hub = empty(1);
        let subscriber = hub.subscribe(&Selection::default()).unwrap();
        let writer = thread::spawn({
            let hub = hub.clone();
            move || {
                for _ in 0..2 {
                    hub.append_line("note", b"1").unwrap();
                }
                hub.end_with("end".into());
            }
        });
        let seen = read_all(subscriber);
        assert!(
            seen.iter().zip(1..).all(|(seen, seq)| *seen == seq || *seen == 0) && seen.len() == 2,
            "{seen:?}"
        );
        writer.join().unwrap();
    });
}

/// An append beside the end: it is delivered, or whoever appends is told that it is not.
#[test]
fn nothing_is_accepted_and_then_not_delivered() {
    loom::model(|| {
        let hub = empty(10);
        let subscriber = hub.subscribe(&Selection::default()).unwrap();
        let writer = thread::spawn({
            let hub = hub.clone();
            move || hub.append_line("note", b"1").unwrap().is_some()
        });
        hub.end_with("end".into());
        let seen = read_all(subscriber);
        assert_eq!(writer.join().unwrap(), seen == [1]);
    });
}

/// Of two that present a ticket at once, one is admitted; the other is known to be the second.
#[test]
fn a_ticket_admits_one_of_two() {
    loom::model(|| {
        let (tickets, now) = (std::sync::Arc::new(Tickets::new()), Instant::now());
        let ticket = tickets.issue(PAGE, now).secret;
        let other = thread::spawn({
            let (tickets, ticket) = (tickets.clone(), ticket.clone());
            move || tickets.redeem(ticket.expose(), &PAGE, now)
        });
        let one = tickets.redeem(ticket.expose(), &PAGE, now);
        let both = [one, other.join().unwrap()];
        assert!(both.contains(&Ok(())) && both.contains(&Err(RedeemError::Used(PAGE))), "{both:?}");
    });
}
