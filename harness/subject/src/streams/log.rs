//! Chapter 11: the log of events.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::fault::{broken, window};
use crate::reason::Reason;

/// The most that the log holds.
const MOST_EVENTS: usize = 4_096;
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// The events that are taken out of the log at once, and their bytes if there are several: so much is held for each
/// subscriber.
pub(super) const BATCH: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;
/// How often a stream looks whether it is still wanted.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// The topics in the log.
pub(crate) const TOPICS: [&str; 6] = ["lifecycle", "warning", "origins", "sessions", "proxies", "note"];
/// The topics of events about a stream itself.
pub(super) const ABOUT: [&str; 3] = ["gap", "superseded", "shutdown"];

/// An event in the log.
pub(super) struct Event {
    pub(super) seq: u64,
    pub(super) topic: &'static str,
    pub(super) data: String,
}

/// The events of a daemon.
pub(crate) struct Log {
    pub(super) epoch: String,
    held: Mutex<Held>,
    arrived: Condvar,
}

#[derive(Default)]
pub(super) struct Held {
    pub(super) events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The number of the last event.
    pub(super) last: u64,
    /// The topic and the data of the last frame of every stream.
    end: Option<(&'static str, Value)>,
    /// What a faulty daemon keeps for each subscriber.
    pub(super) queues: Vec<Arc<Mutex<VecDeque<String>>>>,
}

/// The most that the log holds, in events and bytes.
fn most() -> (usize, usize) {
    let events = if broken("STR-21.events") {
        4 * MOST_EVENTS
    } else if broken("STR-22.short") {
        1_000
    } else {
        MOST_EVENTS
    };
    let bytes = if broken("STR-21.bytes") {
        16 * MOST_BYTES
    } else if broken("STR-22.small") {
        MOST_BYTES / 4
    } else {
        MOST_BYTES
    };
    (events, bytes)
}

/// The number that a client sees, less the one that the log counts by.
pub(super) fn offset() -> i64 {
    if broken("STR-11.from-zero") {
        -1
    } else if broken("STR-11.goes-on") {
        1_000
    } else {
        0
    }
}

/// What a stream gets next.
pub(super) enum Next {
    Events(Vec<Arc<Event>>),
    /// Events that were asked for are not held; this one is the first that is.
    Gap(u64),
    End(&'static str, Value),
    Nothing,
}

impl Log {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            epoch: if broken("STR-10.whole-id") {
                id.to_owned()
            } else if broken("STR-10.pid") {
                format!("{:08x}", std::process::id())
            } else {
                id[..8].to_owned()
            },
            held: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self, seq: u64) -> String {
        if broken("STR-10.bare-number") {
            return seq.to_string();
        }
        let seq = seq.saturating_add_signed(offset());
        if broken("STR-10.underscore") {
            format!("{}_{seq}", self.epoch)
        } else {
            format!("{}-{seq}", self.epoch)
        }
    }

    /// Returns the id of the last event.
    pub(crate) fn last_id(&self) -> String {
        self.id(self.held().last)
    }

    /// A frame; `number` is its own in the stream, `is_old` whether it happened before the stream was opened.
    pub(super) fn frame(&self, event: &Event, number: u64, is_old: bool) -> String {
        let Event { seq, topic, data } = event;
        let id = self.id(if broken("STR-11.own-count") { number } else { *seq });
        let mut data = data.clone();
        if broken("STR-13.at-sent") || broken("STR-13.marked") && is_old || broken("STR-14.no-envelope") {
            let mut value: Value = serde_json::from_str(&data).unwrap_or_default();
            let at = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
            if broken("STR-13.at-sent") {
                value["at"] = json!(at);
            } else if broken("STR-13.marked") {
                value["resumed"] = json!(true);
            } else {
                value = value["data"].take();
            }
            data = value.to_string();
        }
        if broken("STR-13.other-id") && is_old {
            return format!("event: {topic}\ndata: {data}\n\n");
        }
        if broken("STR-14.no-event") {
            return format!("id: {id}\ndata: {data}\n\n");
        }
        format!("id: {id}\nevent: {topic}\ndata: {data}\n\n")
    }

    /// Appends an event and gives back its id.
    pub(crate) fn append(&self, topic: &'static str, data: &Value) -> String {
        self.append_text(topic, &data.to_string())
    }

    /// Appends an event whose data is a JSON text.
    pub(crate) fn append_text(&self, topic: &'static str, data: &str) -> String {
        let data = line_of(topic, data);
        let mut held = self.held();
        held.last += 1;
        held.bytes += data.len();
        let seq = held.last;
        if broken("STR-12.two-locks") {
            drop(held);
            window();
            held = self.held();
        }
        let event = Arc::new(Event { seq, topic, data });
        for queue in &held.queues {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push_back(self.frame(&event, seq, false));
        }
        held.events.push_back(event);
        let (most_events, most_bytes) = most();
        while held.events.len() > most_events || held.bytes > most_bytes {
            if broken("STR-22.emptied") {
                let before = held.events.len() - 1;
                held.events.drain(..before);
                held.bytes = held.events.iter().map(|event| event.data.len()).sum();
                break;
            }
            let Some(oldest) = held.events.pop_front() else {
                break;
            };
            held.bytes -= oldest.data.len();
        }
        drop(held);
        self.arrived.notify_all();
        self.id(seq)
    }

    /// What a daemon does that answers only when there is something to say.
    pub(crate) fn wait_for_an_event(&self) {
        let held = self.held();
        let last = held.last;
        let waited = self.arrived.wait_while(held, |held| held.last == last && held.end.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets every stream end, after what is in the log.
    pub(crate) fn end(&self, reason: &Reason) {
        let end = match reason {
            Reason::Displaced(_) if broken("STR-28.shutdown") => ("shutdown", json!({})),
            Reason::Signal if broken("STR-29.superseded") => ("superseded", json!({})),
            Reason::RecordRemoved if broken("STR-29.removed-is-superseded") => ("superseded", json!({})),
            Reason::Displaced(Some(successor)) => ("superseded", json!({"successor": successor})),
            Reason::Displaced(None) => ("superseded", json!({})),
            _ => ("shutdown", json!({})),
        };
        self.held().end = Some(end);
        self.arrived.notify_all();
    }

    /// What follows for a stream whose next event is number `next`; waits a while if there is nothing.
    pub(super) fn next(&self, next: u64) -> Next {
        let nothing = |held: &mut Held| held.last < next && held.end.is_none();
        let waited = self.arrived.wait_timeout_while(self.held(), LOOK, nothing);
        let (held, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let first = held.events.front().map_or(held.last + 1, |event| event.seq);
        if next < first || next > held.last + 1 {
            return Next::Gap(if broken("STR-17.newest") { held.last + 1 } else { first });
        }
        let skipped = usize::try_from(next - first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |event: &&Arc<Event>| {
            let is_first = bytes == 0;
            bytes += event.data.len();
            is_first || bytes <= BATCH_BYTES
        };
        let newer = held.events.iter().skip(skipped).take(BATCH);
        let mut events: Vec<_> = newer.take_while(fits).cloned().collect();
        if broken("STR-12.newest-first") {
            events.reverse();
        }
        match &held.end {
            _ if !events.is_empty() => Next::Events(events),
            Some((topic, data)) => Next::End(topic, data.clone()),
            None => Next::Nothing,
        }
    }
}

/// The `data` of a frame, in one line.
pub(super) fn line_of(topic: &str, data: &str) -> String {
    let at = humantime::format_rfc3339_millis(SystemTime::now());
    if broken("STR-14.unix-time") {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        return format!(r#"{{"topic":"{topic}","at":{since},"data":{data}}}"#).replace(['\n', '\r'], " ");
    }
    // Line breaks in JSON stand between tokens alone.
    let data = if broken("STR-7.raw-lines") {
        data.to_owned()
    } else {
        data.replace(['\n', '\r'], " ")
    };
    format!(r#"{{"topic":"{topic}","at":"{at}","data":{data}}}"#)
}
