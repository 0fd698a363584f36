//! The event log and its subscribers against a naive log that keeps everything: what is held, what comes next, what is a
//! gap, who is woken, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use local_daemon::streams::{EventId, Hub, Limits, Next, Selection, SubscribeError, Subscriber};
use local_daemon_harness::sse::Parser;

use crate::Seed;
use crate::script::Choices;

const EPOCH: u32 = 0x5f0c_2a9b;
const TOPICS: &[&str] = &["lifecycle", "warning", "note"];

/// An event that ever was.
struct Event {
    topic: usize,
    data: String,
    length: usize,
}

/// Every event, and how many of the oldest are not held any more.
struct Naive {
    events: Vec<Event>,
    limits: Limits,
    ended: bool,
}

impl Naive {
    /// The number of the oldest event that is held, or of the next one.
    fn first(&self) -> usize {
        let held = |from: usize| {
            let held = &self.events[from..];
            held.len() <= self.limits.events
                && held.iter().map(|event| event.length).sum::<usize>() <= self.limits.bytes
        };
        (0..=self.events.len()).find(|from| held(*from)).expect("nothing is within every bound") + 1
    }

    /// The numbers of the events from `next` on that a subscriber wants.
    fn wanted(&self, next: usize, topics: u8) -> impl Iterator<Item = usize> {
        let from = self.events.iter().enumerate().skip(next - 1);
        from.filter(move |(_, event)| topics >> event.topic & 1 == 1).map(|(at, _)| at + 1)
    }
}

/// A subscriber and where it should be.
struct Reader {
    subscriber: Subscriber,
    topics: u8,
    next: usize,
    /// The place that it asked for and that never was.
    lost: Option<EventId>,
    woken: Arc<Woken>,
    /// How often it had been woken when it was told to wait.
    waits: Option<usize>,
    has_ended: bool,
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two bytes are the bounds of the log, the others are what happens.
pub fn run(data: &[u8]) {
    let mut choices = Choices::of(data);
    // Frames are some 50 bytes and their data; a segment of the log is 32 KiB.
    let (Some(events), Some(bytes)) = (choices.next(12), choices.next(8)) else {
        return;
    };
    let limits = Limits {
        events: events + 1,
        bytes: [1, 64, 200, 1_000, 10_000, 40_000, 100_000, 1_000_000][bytes],
    };
    let hub = Arc::new(Hub::new(EPOCH, TOPICS, limits));
    let mut naive = Naive { events: Vec::new(), limits, ended: false };
    let mut readers: Vec<Reader> = Vec::new();
    while let (Some(step), Some(argument)) = (choices.next(8), choices.next(256)) {
        match step {
            0 | 1 => append(&hub, &mut naive, &readers, argument),
            2 => readers.extend(subscribe(&hub, &naive, argument)),
            3 | 4 if !readers.is_empty() => {
                let at = argument % readers.len();
                read(&naive, &mut readers[at]);
            }
            5 if !readers.is_empty() => drop(readers.remove(argument % readers.len())),
            7 if argument >= 250 => {
                hub.end_with("event: shutdown\ndata: {}\n\n".into());
                naive.ended = true;
                readers.iter().for_each(must_be_woken);
            }
            _ => {}
        }
        assert_eq!(hub.subscribers(), readers.len(), "STR-24");
    }
    for reader in &mut readers {
        while read(&naive, reader) {}
    }
}

fn append(hub: &Hub, naive: &mut Naive, readers: &[Reader], argument: usize) {
    let (topic, size) = (argument % TOPICS.len(), argument / TOPICS.len());
    // Mostly short, now and then longer than a segment.
    let data = format!("\"{}\"", "x".repeat(if size < 80 { size } else { size * 450 }));
    let id = hub.append_line(TOPICS[topic], data.as_bytes()).expect("the log is in memory");
    if naive.ended {
        assert_eq!(id, None);
        return;
    }
    let seq = naive.events.len() + 1;
    let length = format!("id: {EPOCH:08x}-{seq}\nevent: {}\ndata: {data}\n\n", TOPICS[topic]).len();
    naive.events.push(Event { topic, data, length });
    assert_eq!(id, Some(event_id(seq)), "STR-10, STR-11");
    let wants = |reader: &&Reader| reader.topics >> topic & 1 == 1;
    readers.iter().filter(wants).for_each(must_be_woken);
}

fn must_be_woken(reader: &Reader) {
    if let Some(before) = reader.waits {
        assert!(reader.woken.0.load(Ordering::Relaxed) > before, "it sleeps through an event");
    }
}

fn event_id(seq: usize) -> EventId {
    EventId { epoch: EPOCH, seq: seq as u64 }
}

fn subscribe(hub: &Arc<Hub>, naive: &Naive, argument: usize) -> Option<Reader> {
    let (topics, place) = (u8::try_from(argument % 8).expect("three bits"), argument / 8);
    let names: Vec<&str> = TOPICS
        .iter()
        .enumerate()
        .filter(|(at, _)| topics >> at & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    let (topics, names) = if names.is_empty() { (7, None) } else { (topics, Some(names.join(","))) };
    let after = match place {
        0..=3 => None,
        4..=23 => Some(event_id(place - 4)),
        24..=27 => Some(EventId { epoch: EPOCH + 1, seq: 1 }),
        28 => Some(event_id(usize::MAX)),
        back => Some(event_id(naive.events.len().saturating_sub(back - 29))),
    };
    let text = after.map(|id| id.to_string());
    // The header wins over the parameter (STR-16).
    let header = (place % 2 == 0).then_some(text.as_deref()).flatten();
    let parameter = if header.is_some() { Some("00000000-7") } else { text.as_deref() };
    let selection =
        Selection::parse(names.as_deref(), parameter, header.map(str::as_bytes)).expect("it is well-formed");
    assert_eq!(selection.after, after);
    let subscriber = match hub.subscribe(&selection) {
        Ok(subscriber) => subscriber,
        Err(refused) => {
            assert!(naive.ended && refused == SubscribeError::Ended, "STR-6: {refused:?}");
            return None;
        }
    };
    assert!(!naive.ended, "STR-6");
    let last = naive.events.len();
    let (next, lost) = match after {
        None => (last + 1, None),
        Some(id) if id.epoch == EPOCH && id.seq <= last as u64 => {
            (usize::try_from(id.seq).expect("it was") + 1, None)
        }
        Some(id) => (last + 1, Some(id)),
    };
    Some(Reader {
        subscriber,
        topics,
        next,
        lost,
        woken: Arc::default(),
        waits: None,
        has_ended: false,
    })
}

/// One poll; whether something came of it that may go on.
fn read(naive: &Naive, reader: &mut Reader) -> bool {
    let waker = Waker::from(reader.woken.clone());
    let polled = reader.subscriber.poll_next(&mut Context::from_waker(&waker));
    reader.waits = None;
    let first = naive.first();
    let held = reader.next.max(first);
    match polled {
        Poll::Ready(Next::Closed) => {
            assert!(reader.has_ended, "it ends for nothing");
            return false;
        }
        _ if reader.has_ended => panic!("STR-28, STR-29: {polled:?} after its end"),
        Poll::Ready(Next::Gap { first: told, after }) => {
            assert_eq!(told, event_id(first), "STR-17");
            if let Some(lost) = reader.lost.take() {
                assert_eq!(after, lost, "STR-18");
            } else {
                let (next, first) = (reader.next as u64, first as u64);
                assert!((next..first).contains(&(after.seq + 1)), "STR-17: {after:?} is not lost");
            }
            reader.next = first;
        }
        _ if reader.lost.is_some() => panic!("STR-18: {polled:?} instead of a gap"),
        _ if naive.wanted(reader.next, reader.topics).next().is_some_and(|next| next < first) => {
            panic!("STR-17: {polled:?} instead of a gap")
        }
        Poll::Ready(Next::Frames(bytes)) => {
            let mut parser = Parser::default();
            let frames = parser.feed(&bytes, Instant::now());
            assert!(!frames.is_empty() && parser.rest() == (&[], &[]), "whole frames");
            let mut wanted = naive.wanted(held, reader.topics);
            for frame in frames {
                let seq = wanted.next().expect("STR-12: an event that never was, or was not asked for");
                let event = &naive.events[seq - 1];
                assert_eq!(frame.id(), Some(&*event_id(seq).to_string()), "STR-12");
                assert_eq!(frame.event(), Some(TOPICS[event.topic]), "STR-14");
                assert_eq!(frame.data().as_ref(), Some(&event.data), "STR-13");
                reader.next = seq + 1;
            }
        }
        Poll::Ready(Next::End(_)) => {
            assert!(naive.ended && naive.wanted(held, reader.topics).next().is_none(), "STR-28");
            reader.has_ended = true;
        }
        Poll::Pending => {
            assert!(
                !naive.ended && naive.wanted(held, reader.topics).next().is_none(),
                "an event is kept back"
            );
            reader.waits = Some(reader.woken.0.load(Ordering::Relaxed));
            return false;
        }
    }
    true
}

/// Live, resumed, behind, ended.
pub fn seeds() -> Vec<Seed> {
    let seed = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    vec![
        seed("live", &[11, 7, 2, 0, 3, 0, 0, 2, 0, 3, 3, 0, 3, 0]),
        seed("topics", &[11, 7, 2, 4, 0, 0, 0, 2, 3, 0, 0, 1, 3, 0]),
        seed("resumed", &[11, 7, 0, 2, 0, 2, 0, 2, 2, 40, 3, 0, 3, 0]),
        seed("behind", &[1, 7, 2, 0, 0, 2, 0, 2, 0, 2, 0, 2, 3, 0, 3, 0]),
        seed("small", &[11, 2, 0, 2, 0, 2, 0, 250, 0, 2, 2, 40, 3, 0, 3, 0]),
        seed("segments", &[11, 7, 0, 250, 0, 2, 0, 251, 0, 2, 2, 36, 3, 0, 3, 0, 3, 0, 3, 0]),
        seed("other-epoch", &[11, 7, 0, 2, 2, 200, 3, 0, 3, 0]),
        seed("closed", &[11, 7, 2, 0, 2, 0, 0, 2, 6, 0, 3, 0, 3, 1]),
        seed("ended", &[11, 7, 2, 0, 0, 2, 7, 255, 3, 0, 3, 0, 3, 0, 2, 0, 0, 2]),
    ]
}
