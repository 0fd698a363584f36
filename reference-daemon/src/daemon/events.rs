//! `/v1/events`: what happens, for everybody who listens, in order and resumable.
//!
//! One bounded log, and a cursor for each subscriber: whoever is slow reads on where it was, or is told of the gap.
//! Nobody slows anybody else, and no subscriber costs more memory than the one chunk that is on its way.

use std::{
    collections::VecDeque,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{
        HeaderMap, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{
    BodyExt,
    channel::{Channel, Sender},
};
use local_daemon::{ClaimId, StateDir, claim::Reason, claim::Sight};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, interval_at},
};

use super::{App, Kind, Open, Payload, refuse, status::rfc3339};

/// The route.
pub(super) const PATH: &str = "/v1/events";

/// The most events that the log holds,
const MOST_EVENTS: usize = 4096;
/// and the most bytes.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// About how much a subscriber is sent at once.
const CHUNK: usize = 64 * 1024;
/// How often a stream on which nothing happens says that it is there (STR-27).
const BEAT: Duration = Duration::from_secs(15);
/// What a subscriber may choose from.
const TOPICS: &[&str] = &["lifecycle", "warning", "origins", "sessions", "proxies", "note"];

/// Place of an event: the launch, and its number there from 1 (STR-10, STR-20).
#[derive(Clone, PartialEq, Eq, Debug)]
struct EventId {
    epoch: String,
    seq: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, seq) = text.split_once('-').ok_or(())?;
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let counts = !seq.is_empty() && !seq.starts_with('0') && seq.bytes().all(|b| b.is_ascii_digit());
        if epoch.len() != 8 || !epoch.bytes().all(hex) || !counts {
            return Err(());
        }
        // A number beyond what can be counted is of a future that will not be, and no mistake of form.
        let seq = seq.parse().unwrap_or(u64::MAX);
        Ok(Self {
            epoch: epoch.to_owned(),
            seq,
        })
    }
}

/// The log of one launch.
pub(super) struct Events {
    epoch: String,
    log: Mutex<Log>,
    head: watch::Sender<Head>,
}

/// What subscribers wait on.
#[derive(Clone)]
struct Head {
    /// The number of the newest event, 0 before the first.
    last: u64,
    /// The last frame of every stream, once the daemon stands down.
    end: Option<Bytes>,
}

#[derive(Default)]
struct Log {
    entries: VecDeque<Entry>,
    bytes: usize,
}

struct Entry {
    seq: u64,
    topic: &'static str,
    frame: Bytes,
}

impl Events {
    pub(super) fn new(id: ClaimId) -> Self {
        let head = watch::channel(Head { last: 0, end: None }).0;
        Self {
            epoch: id.epoch(),
            log: Mutex::default(),
            head,
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Entries are pushed and popped whole, so a holder that panicked left a usable log.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, seq: u64) -> EventId {
        EventId {
            epoch: self.epoch.clone(),
            seq,
        }
    }

    /// STR-10 and STR-11 number it, STR-21 and STR-22 bound what is held.
    fn append(&self, topic: &'static str, data: &Value) -> EventId {
        let mut log = self.log();
        let seq = self.head.borrow().last + 1;
        let id = self.id(seq);
        let frame = frame(Some(&id), topic, data);
        log.bytes += frame.len();
        log.entries.push_back(Entry { seq, topic, frame });
        while log.entries.len() > MOST_EVENTS || log.bytes > MOST_BYTES {
            let Some(oldest) = log.entries.pop_front() else {
                break;
            };
            log.bytes -= oldest.frame.len();
        }
        self.head.send_modify(|head| head.last = seq);
        id
    }

    /// STR-3, STR-15, STR-18: where a subscriber begins that has seen everything up to `seen`, or wants what comes from now on.
    fn cursor(&self, seen: Option<EventId>) -> Cursor {
        let last = self.head.borrow().last;
        match seen {
            None => Cursor {
                seq: last,
                lost: None,
            },
            Some(id) if id.epoch == self.epoch && id.seq <= last => Cursor {
                seq: id.seq,
                lost: None,
            },
            // Another launch's, or of a future that never was: everything that is held, and a word about the rest.
            Some(id) => Cursor {
                seq: 0,
                lost: Some(id),
            },
        }
    }

    /// The next frames after the cursor, which moves on; empty: there are none yet (STR-4, STR-12, STR-17, STR-26).
    fn read(&self, cursor: &mut Cursor, topics: Option<&[String]>) -> Vec<u8> {
        let log = self.log();
        let mut chunk = Vec::new();
        let first = log
            .entries
            .front()
            .map_or_else(|| self.head.borrow().last + 1, |entry| entry.seq);
        if cursor.seq + 1 < first && cursor.lost.is_none() {
            cursor.lost = Some(self.id(cursor.seq));
        }
        if let Some(lost) = cursor.lost.take() {
            let mut data = json!({"first": self.id(first).to_string()});
            if lost.seq > 0 {
                data["after"] = lost.to_string().into();
            }
            chunk.extend_from_slice(&frame(None, "gap", &data));
            cursor.seq = first - 1;
        }
        let skip = usize::try_from(cursor.seq + 1 - first).unwrap_or(usize::MAX);
        for entry in log.entries.iter().skip(skip) {
            if chunk.len() >= CHUNK {
                break;
            }
            cursor.seq = entry.seq;
            if topics.is_none_or(|topics| topics.iter().any(|topic| topic == entry.topic)) {
                chunk.extend_from_slice(&entry.frame);
            }
        }
        chunk
    }
}

/// How far a subscriber has read, and the place it was promised and cannot have.
struct Cursor {
    seq: u64,
    lost: Option<EventId>,
}

fn frame(id: Option<&EventId>, topic: &str, data: &Value) -> Bytes {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    // JSON on one line: no line break in the data can end the frame early.
    let data = json!({"topic": topic, "at": rfc3339(SystemTime::now()), "data": data});
    format!("{id}event: {topic}\ndata: {data}\n\n").into()
}

#[derive(Deserialize)]
pub(super) struct Selection {
    topics: Option<String>,
    after: Option<String>,
}

/// `GET /v1/events[?topics=…][&after=…]`.
pub(super) async fn subscribe(
    State(app): State<Arc<App>>,
    selection: Result<Query<Selection>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let invalid = |detail: String| refuse(StatusCode::BAD_REQUEST, "invalid_request", detail);
    let Query(selection) = selection.map_err(|error| invalid(error.body_text()))?;
    let topics = selection
        .topics
        .map(|topics| topics.split(',').map(str::to_owned).collect::<Vec<_>>());
    if topics
        .iter()
        .flatten()
        .any(|topic| !TOPICS.contains(&topic.as_str()))
    {
        return Err(invalid(format!("topics: expected some of {}", TOPICS.join(", "))));
    }
    // STR-16: a browser that reconnects sends the header, and its address still says where it began.
    let seen = match headers.get("last-event-id") {
        Some(id) => Some(id.to_str().unwrap_or_default().to_owned()),
        None => selection.after,
    };
    let seen = seen.map(|id| {
        id.parse::<EventId>()
            .map_err(|()| invalid("an event id is EPOCH-NUMBER".to_owned()))
    });
    let cursor = app.events.cursor(seen.transpose()?);

    let (sender, body) = Channel::<Bytes>::new(1);
    let open = app.activity.begin(Kind::Stream).0;
    let feeder = tokio::spawn(feed(app, cursor, topics, sender)).abort_handle();
    let attached = Attached { _open: open, feeder };
    // The stream counts for as long as its body lives, whoever ends it.
    let body = body.map_frame(move |frame| {
        let _ = &attached;
        frame
    });
    Ok((
        [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")],
        Body::new(body),
    )
        .into_response())
}

/// One subscriber; when its body goes, so does what feeds it (STR-24).
struct Attached {
    _open: Open,
    feeder: AbortHandle,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.feeder.abort();
    }
}

/// Sends a subscriber what it asked for, until it leaves or the daemon stands down. What it does not read waits in
/// the log, not here (STR-23, STR-25).
async fn feed(app: Arc<App>, mut cursor: Cursor, topics: Option<Vec<String>>, mut sender: Sender<Bytes>) {
    let mut head = app.events.head.subscribe();
    let mut beat = interval_at(Instant::now() + BEAT, BEAT);
    let mut next = Bytes::from_static(b"retry: 500\n\n");
    loop {
        if sender.send_data(next).await.is_err() {
            return;
        }
        next = loop {
            // Looked at before the log is read: whatever was appended before the end is sent before it.
            let Head { last, end } = head.borrow_and_update().clone();
            let chunk = app.events.read(&mut cursor, topics.as_deref());
            if !chunk.is_empty() {
                break chunk.into();
            }
            if cursor.seq < last {
                continue;
            }
            if let Some(end) = end {
                // The last word; a subscriber that has left does not need it.
                let _ = sender.send_data(end).await;
                return;
            }
            tokio::select! {
                // The sender lives in `app`, which this task holds.
                _ = head.changed() => {}
                _ = beat.tick() => break Bytes::from_static(b":\n\n"),
            }
        };
    }
}

#[derive(Deserialize)]
pub(super) struct Note {
    topic: String,
    data: Value,
}

/// `POST /v1/events`: a note that every subscriber sees (STR-7 to STR-9).
pub(super) async fn append(State(app): State<Arc<App>>, Payload(note): Payload<Note>) -> Response {
    if note.topic != "note" {
        return refuse(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "the topic that clients may post to is note",
        );
    }
    let id = app.events.append("note", &note.data);
    (StatusCode::CREATED, Json(json!({"id": id.to_string()}))).into_response()
}

/// Tells every subscriber that the daemon is ready, and when it stands down; then ends the streams (STR-28, STR-29).
pub(super) async fn lifecycle(app: Arc<App>) {
    let reason = tokio::select! {
        biased;
        reason = app.handle.draining() => reason,
        () = app.handle.published() => {
            app.events.append("lifecycle", &json!({"what": "ready"}));
            app.handle.draining().await
        }
    };
    let why = match reason {
        Reason::Displaced => "displaced",
        Reason::RecordRemoved => "record-removed",
        Reason::DirectoryGone => "directory-removed",
        Reason::Stopped | Reason::Yielded | Reason::Failed => app.cause.get().copied().unwrap_or("signal"),
    };
    app.events
        .append("lifecycle", &json!({"what": "draining", "reason": why}));
    let end = if reason == Reason::Displaced {
        let successor = match StateDir::at(app.handle.state_dir()).read_record().0 {
            Sight::Record(record) => json!({"successor": record.id}),
            _ => json!({}),
        };
        frame(None, "superseded", &successor)
    } else {
        frame(None, "shutdown", &json!({}))
    };
    app.events.head.send_modify(|head| head.end = Some(end));
}

#[cfg(test)]
mod tests {
    use local_daemon::ClaimId;
    use serde_json::{Value, json};

    use super::{Cursor, EventId, Events, MOST_BYTES, MOST_EVENTS};

    const ID: ClaimId = ClaimId::from_bits(0x5f0c_2a9b_e17d_4836_a1c0_4f9d_2e6b_8370);

    fn ids(text: &[u8]) -> Vec<String> {
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.lines()
            .filter_map(|line| line.strip_prefix("id: "))
            .map(str::to_owned)
            .collect()
    }

    fn all(events: &Events, cursor: &mut Cursor) -> Vec<u8> {
        let mut text = Vec::new();
        loop {
            let chunk = events.read(cursor, None);
            if chunk.is_empty() {
                return text;
            }
            text.extend(chunk);
        }
    }

    fn gap(text: &[u8]) -> Option<Value> {
        let text = String::from_utf8(text.to_vec()).unwrap();
        let mut lines = text.strip_prefix("event: gap\n")?.lines();
        serde_json::from_str::<Value>(lines.next()?.strip_prefix("data: ")?)
            .ok()
            .map(|v| v["data"].clone())
    }

    #[test]
    fn a_subscriber_resumes_exactly_after_what_it_has_seen() {
        let events = Events::new(ID);
        for n in 1..=3 {
            events.append("note", &json!({ "n": n }));
        }
        let mut cursor = events.cursor(Some("5f0c2a9b-1".parse().unwrap()));
        assert_eq!(ids(&all(&events, &mut cursor)), ["5f0c2a9b-2", "5f0c2a9b-3"]);
        events.append("note", &json!(4));
        assert_eq!(ids(&all(&events, &mut cursor)), ["5f0c2a9b-4"]);
        assert!(events.read(&mut cursor, None).is_empty());
    }

    #[test]
    fn without_a_place_the_stream_begins_now() {
        let events = Events::new(ID);
        events.append("note", &json!(1));
        let mut cursor = events.cursor(None);
        assert!(events.read(&mut cursor, None).is_empty());
        events.append("note", &json!(2));
        assert_eq!(ids(&events.read(&mut cursor, None)), ["5f0c2a9b-2"]);
    }

    #[test]
    fn what_is_not_held_any_more_is_a_gap_and_then_everything_that_is() {
        let events = Events::new(ID);
        for n in 1..=MOST_EVENTS + 10 {
            events.append("note", &json!(n));
        }
        let mut cursor = events.cursor(Some("5f0c2a9b-3".parse().unwrap()));
        let text = all(&events, &mut cursor);
        assert_eq!(
            gap(&text),
            Some(json!({"first": "5f0c2a9b-11", "after": "5f0c2a9b-3"}))
        );
        let ids = ids(&text);
        assert_eq!((ids.len(), ids[0].as_str()), (MOST_EVENTS, "5f0c2a9b-11"));
    }

    #[test]
    fn a_place_of_another_launch_or_of_no_time_is_a_gap() {
        let events = Events::new(ID);
        for seen in ["00000000-7", "5f0c2a9b-1"] {
            let mut cursor = events.cursor(Some(seen.parse().unwrap()));
            let text = events.read(&mut cursor, None);
            assert_eq!(gap(&text), Some(json!({"first": "5f0c2a9b-1", "after": seen})));
            assert!(events.read(&mut cursor, None).is_empty(), "one gap, not two");
        }
    }

    #[test]
    fn the_log_is_bounded_in_bytes_and_reads_in_chunks() {
        let events = Events::new(ID);
        let large = "x".repeat(60_000);
        for _ in 0..100 {
            events.append("note", &json!(large));
        }
        assert!(events.log().bytes <= MOST_BYTES);
        let mut cursor = events.cursor(Some("5f0c2a9b-99".parse().unwrap()));
        assert_eq!(ids(&events.read(&mut cursor, None)), ["5f0c2a9b-100"]);
        let mut cursor = events.cursor(Some("5f0c2a9b-50".parse().unwrap()));
        assert!(events.read(&mut cursor, None).len() < 200_000);
    }

    #[test]
    fn topics_choose() {
        let events = Events::new(ID);
        let mut cursor = events.cursor(None);
        events.append("note", &json!(1));
        events.append("lifecycle", &json!({"what": "draining"}));
        let chosen = ["lifecycle".to_owned()];
        assert_eq!(ids(&events.read(&mut cursor, Some(&chosen))), ["5f0c2a9b-2"]);
        assert_eq!(cursor.seq, 2);
    }

    #[test]
    fn an_event_id_is_an_epoch_and_a_number() {
        for text in [
            "5f0c2a9b-0",
            "5f0c2a9b-01",
            "",
            "5f0c2a9b",
            "5f0c2a9b-",
            "5f0c2a9b-x",
            "5F0C2A9B-1",
            "5f0c2a9-1",
            "5f0c2a9b-+1",
        ] {
            assert!(text.parse::<EventId>().is_err(), "{text}");
        }
        assert_eq!(
            "5f0c2a9b-12".parse::<EventId>().unwrap().to_string(),
            "5f0c2a9b-12"
        );
    }
}
