//! The faults of the event streams, chapter 11.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::log::{Log, Next, line_of};
use super::{Sender, Wish};
use crate::fault::{Fault, fault};

pub(crate) const FAULTS: &[Fault] = &[
    fault("STR-1.plain-text", "answers a stream as plain text"),
    fault("STR-1.storable", "lets a stream be stored if it is asked about again"),
    fault("STR-2.withheld", "sends the head with the first event"),
    fault("STR-2.no-retry", "leaves the time to reconnect to the engine"),
    fault("STR-2.three-seconds", "asks to reconnect after 3 s"),
    fault("STR-3.late", "begins where the log is once the reader's thread runs"),
    fault("STR-4.ignored", "ignores the topics"),
    fault("STR-4.first-only", "takes the first of several topics"),
    fault("STR-4.lifecycle-always", "delivers its own life to everybody"),
    fault("STR-4.gap-unheard", "filters the gap by topics too"),
    fault("STR-4.end-unheard", "filters the last word by topics too"),
    fault("STR-5.ignored", "ignores an unknown topic"),
    fault("STR-5.one-is-known", "is content with one known topic"),
    fault("STR-5.prefix", "compares the beginning of a topic"),
    fault("STR-5.any-case", "takes topics in any case"),
    fault("STR-6.opens", "opens streams while it stands down"),
    fault("STR-10.bare-number", "numbers events without an epoch"),
    fault("STR-10.whole-id", "takes the whole id for the epoch"),
    fault("STR-10.pid", "takes the process id for the epoch"),
    fault("STR-10.underscore", "joins epoch and number by another sign"),
    fault("STR-11.from-zero", "counts from 0"),
    fault("STR-11.goes-on", "goes on counting somewhere after a restart"),
    fault("STR-11.own-count", "numbers the events of each stream by itself"),
    fault("STR-12.newest-first", "delivers what it has fetched newest first"),
    fault("STR-12.again", "delivers the last event of a full batch again"),
    fault("STR-12.two-locks", "takes the number and appends the event under two locks"),
    fault("STR-13.at-sent", "tells when an event was sent and not when it happened"),
    fault("STR-13.marked", "marks an event that is delivered later"),
    fault("STR-13.other-id", "leaves the id out of events that are delivered later"),
    fault("STR-14.no-event", "leaves the `event` field out"),
    fault("STR-14.no-envelope", "sends the payload alone"),
    fault("STR-14.unix-time", "tells the time in seconds"),
    fault("STR-14.bare-end", "sends the last word without topic and time"),
    fault("STR-15.inclusive", "begins with the named event"),
    fault("STR-15.one-later", "begins one event later"),
    fault("STR-15.no-header", "knows the parameter alone"),
    fault("STR-15.no-parameter", "knows the header alone"),
    fault("STR-15.zero-refused", "refuses the number 0"),
    fault("STR-15.last-is-lost", "takes the last event for one that is not held"),
    fault("STR-16.after-wins", "prefers the parameter"),
    fault("STR-16.further", "takes the one that is further"),
    fault("STR-17.silent", "goes on at the oldest event and says nothing"),
    fault("STR-17.newest", "goes on at the newest event"),
    fault("STR-17.first-is-lost", "names the last event that is lost"),
    fault("STR-17.twice", "tells of a gap once for the head and once for the loop"),
    fault("STR-17.too-early", "tells of a gap before the oldest event that is held"),
    fault("STR-17.refused", "refuses an id that is not held"),
    fault("STR-18.epoch-ignored", "compares the number alone"),
    fault("STR-18.future-waits", "waits for the number to come about"),
    fault("STR-18.foreign-from-now", "begins now for an id of another launch"),
    fault("STR-18.foreign-refused", "refuses an id of another launch"),
    fault("STR-18.future-refused", "refuses a number higher than the last"),
    fault("STR-19.gap-id", "gives a gap the id where it goes on"),
    fault("STR-19.end-id", "gives the last word an id"),
    fault("STR-20.from-now", "begins now for an id that it cannot read"),
    fault("STR-20.header-from-now", "ignores a header that it cannot read"),
    fault("STR-20.parameter-from-now", "ignores a parameter that it cannot read"),
    fault("STR-20.empty-after", "takes an empty parameter for none"),
    fault("STR-20.winner-alone", "reads the header alone if there is one"),
    fault("STR-20.lenient", "reads of an id what it can"),
    fault("STR-21.events", "holds four times as many events"),
    fault("STR-21.bytes", "bounds the number of events and not their bytes"),
    fault("STR-22.short", "holds 1,000 events"),
    fault("STR-22.small", "holds 1 MiB"),
    fault("STR-22.emptied", "begins anew when the log is full"),
    fault("STR-23.queue", "has an unbounded queue for each subscriber"),
    fault("STR-24.unnoticed", "notices by its next write that a subscriber has gone"),
    fault("STR-24.counted", "never counts a stream down"),
    fault("STR-24.kept", "keeps what a subscriber did not read"),
    fault("STR-25.under-the-lock", "writes to a subscriber under the log's lock"),
    fault("STR-25.one-writer", "writes to one subscriber at a time"),
    fault("STR-26.newest", "skips what a subscriber is too far behind"),
    fault("STR-26.silent", "goes on after a loss and says nothing"),
    fault("STR-26.cut", "cuts off whoever has fallen behind"),
    fault("STR-27.never", "sends nothing while nothing happens"),
    fault("STR-27.any-event", "counts events that the stream does not want as a sign of life"),
    fault("STR-27.half-minute", "says that it is there every 30 s"),
    fault("STR-28.silent", "ends the streams without a word when it is displaced"),
    fault("STR-28.shutdown", "says shutdown when it is displaced"),
    fault("STR-28.cut", "closes the connection after superseded"),
    fault("STR-28.not-the-last", "sends one more event after superseded"),
    fault("STR-28.by-topic", "says superseded on streams of everything alone"),
    fault("STR-29.silent", "ends the streams without a word when it stops"),
    fault("STR-29.superseded", "says superseded when a signal stops it"),
    fault("STR-29.removed-is-superseded", "says superseded when its record was removed"),
    fault("STR-29.cut", "closes the connection after shutdown"),
    fault("STR-29.not-the-last", "sends one more event after shutdown"),
    fault("STR-29.by-topic", "says shutdown on streams of everything alone"),
    fault("STR-30.for-ever", "waits for whoever does not read"),
    fault("STR-32.unnamed", "begins a stream without the id of the last event"),
    fault("STR-32.next", "begins a stream with the id of the event to come"),
    fault("STR-32.zero", "begins a stream with the number 0, whatever has happened"),
    fault("STR-32.with-data", "begins a stream with an empty event"),
    fault("STR-33.refused", "refuses an empty header as it refuses a garbled one"),
    fault(
        "STR-33.hides-after",
        "takes an empty header for the wish to begin now, whatever the parameter says",
    ),
    fault("STR-33.beginning", "takes an empty header for the number 0"),
];

/// What a faulty daemon has one of, for all subscribers.
pub(super) static WRITER: Mutex<()> = Mutex::new(());

/// A stream whose events wait in a queue of its own.
pub(super) fn follow_queue<W: Fn() -> bool>(
    mut sender: Sender<'_, W>,
    log: &Log,
    wish: &Wish,
) -> io::Result<()> {
    let queue = Arc::new(Mutex::new(VecDeque::new()));
    {
        let mut held = log.held();
        let before = held.events.iter().filter(|event| event.seq >= wish.next);
        let frames: VecDeque<String> = before.map(|event| log.frame(event, event.seq, true)).collect();
        *queue.lock().unwrap_or_else(PoisonError::into_inner) = frames;
        held.queues.push(Arc::clone(&queue));
    }
    let sent = loop {
        let frame = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if let Some(frame) = frame {
            if let Err(error) = sender.send(&frame) {
                break Err(error);
            }
        } else if let Next::End(topic, data) = log.next(u64::MAX - 1) {
            let line = line_of(topic, &data.to_string());
            sender.send(&format!("event: {topic}\ndata: {line}\n\n"))?;
            break sender.end();
        } else if sender.is_over() {
            break Ok(());
        }
    };
    log.held().queues.retain(|other| !Arc::ptr_eq(other, &queue));
    sent
}
