//! Event streams from the reader's side: their frames, and the place at which the next stream goes on. [`Reader`] takes the bytes
//! of one stream after another and returns what happened; it does no I/O and reads no clock.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use core::str::FromStr;
use core::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::ClaimId;

/// How long to wait before the next stream unless the daemon sends a `retry` (STR-2).
const DEFAULT_RETRY: Duration = Duration::from_millis(500);
/// The shortest `retry` that is honoured: a reader whose daemon is gone would otherwise look for it without a pause.
const MIN_RETRY: Duration = Duration::from_millis(10);
/// The longest wait before the next stream, unless the daemon's `retry` is longer.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// The longest `retry` that is honoured.
const MAX_RETRY: Duration = Duration::from_mins(1);
/// The longest frame, in bytes: a log holds 4 MiB (STR-21), and a frame of it adds a few names.
pub const MAX_FRAME_BYTES: usize = 5 * 1024 * 1024;

/// The place of an event in the log of a stream: `<epoch>-<seq>` (STR-10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventId {
    /// Which log: of the daemon-wide one, the first 8 hexadecimal digits of the daemon's id.
    pub epoch: u32,
    /// Counts from 1; 0 stands before the first event (STR-11, STR-15).
    pub seq: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.epoch, self.seq)
    }
}

/// The text is not an event id (STR-20).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an event id is 8 hexadecimal digits, a hyphen and a number")]
pub struct ParseEventIdError;

impl FromStr for EventId {
    type Err = ParseEventIdError;

    fn from_str(text: &str) -> Result<Self, ParseEventIdError> {
        let (epoch, seq) = text.split_once('-').ok_or(ParseEventIdError)?;
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let number = !seq.is_empty() && seq.bytes().all(|b| b.is_ascii_digit());
        if epoch.len() != 8 || !epoch.bytes().all(hex) || !number || seq.len() > 1 && seq.starts_with('0') {
            return Err(ParseEventIdError);
        }
        Ok(Self {
            epoch: u32::from_str_radix(epoch, 16).map_err(|_| ParseEventIdError)?,
            // A number beyond what can be counted is higher than the last (STR-18), and no mistake of form.
            seq: seq.parse().unwrap_or(u64::MAX),
        })
    }
}

/// What a stream says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Item {
    /// Something happened.
    Event(Event),
    /// The daemon does not hold what was asked for: events are lost, or the log is a new one (STR-17, STR-18).
    Gap {
        /// The next event that the stream delivers.
        first: EventId,
        /// The last one that this reader had.
        after: Option<EventId>,
    },
    /// Another daemon has taken over (STR-28). What follows is of its stream.
    Superseded {
        /// That daemon, if the displaced one knew it.
        successor: Option<ClaimId>,
    },
    /// The daemon stops, as it was asked to (STR-29). What follows, if anything, is of the next daemon's stream.
    Shutdown,
}

/// An event of the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// Its place.
    pub id: EventId,
    /// What it is about.
    pub topic: String,
    /// When it happened, as RFC 3339.
    pub at: String,
    /// What happened, as JSON.
    pub data: Box<RawValue>,
}

impl Event {
    /// Returns the data as a value of a type of the caller's.
    ///
    /// # Errors
    /// Fails if the data is not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.data.get())
    }
}

/// What a daemon sent is not a stream of this protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The answer is not of the type `text/event-stream` (STR-1).
    #[error("the answer is not a stream of the type text/event-stream")]
    Type,
    /// A frame is longer than [`MAX_FRAME_BYTES`].
    #[error("a frame of the stream is longer than {MAX_FRAME_BYTES} bytes")]
    TooLong,
    /// An id is not `<epoch>-<seq>`, or an event has none (STR-10).
    #[error("an event of the stream has no id of the form <epoch>-<seq>")]
    Id,
    /// The data of a frame is not `{"topic": …, "at": …, "data": …}` (STR-14).
    #[error("the data of an event is not an object with topic, at and data")]
    Data,
}

/// The `data` of a frame.
#[derive(Deserialize)]
struct Envelope<'a> {
    topic: String,
    at: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct GapData {
    first: String,
}

#[derive(Deserialize)]
struct SupersededData {
    successor: Option<String>,
}

/// Reads one logical stream over as many connections as it takes.
#[derive(Clone, Debug)]
pub struct Reader {
    /// What has come of a line that is not read yet, from `start` on.
    input: Vec<u8>,
    start: usize,
    /// Up to where that has no line end.
    searched: usize,
    /// Whether the last line ended with a carriage return, so that a line feed belongs to its end.
    skips_line_feed: bool,
    /// Whether a line of this stream was read: its first one may begin with a byte order mark.
    has_begun: bool,
    event: String,
    data: String,
    has_data: bool,
    id: Option<String>,
    after: Option<EventId>,
    retry: Duration,
    failures: u32,
    is_superseded: bool,
}

impl Reader {
    /// Returns a reader that begins after this event, or with what happens from now on.
    pub fn new(after: Option<EventId>) -> Self {
        Self {
            input: Vec::new(),
            start: 0,
            searched: 0,
            skips_line_feed: false,
            has_begun: false,
            event: String::new(),
            data: String::new(),
            has_data: false,
            id: None,
            after,
            retry: DEFAULT_RETRY,
            failures: 0,
            is_superseded: false,
        }
    }

    /// Returns the event after which the next stream goes on: the last one that [`next`](Self::next) has returned.
    pub fn after(&self) -> Option<EventId> {
        self.after
    }

    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.input.len() {
            self.input.clear();
            (self.start, self.searched) = (0, 0);
        } else if self.start > self.input.len() / 2 {
            self.input.drain(..self.start);
            self.searched = self.searched.saturating_sub(self.start);
            self.start = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// Notes that the stream has ended, however it did. What came of an incomplete frame is dropped.
    pub fn cut(&mut self) {
        self.input.clear();
        (self.start, self.searched) = (0, 0);
        self.skips_line_feed = false;
        self.has_begun = false;
        self.forget_frame();
    }

    /// Returns how long to wait before the next stream is opened: not at all if a successor is there, else what `retry` asks for,
    /// and longer with each failure. `random` spreads the readers of one daemon over the half of that time.
    pub fn delay(&mut self, random: u32) -> Duration {
        if mem::take(&mut self.is_superseded) {
            return Duration::ZERO;
        }
        let longest = self.retry.saturating_mul(1 << self.failures.min(10)).min(MAX_DELAY.max(self.retry));
        self.failures = self.failures.saturating_add(1);
        longest / 2 + (longest / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Returns what the stream says next; `None` if more bytes are needed.
    ///
    /// # Errors
    /// Fails if the stream is not one of this protocol. It cannot be read on after that.
    #[expect(clippy::should_implement_trait, reason = "a reader goes on after it has returned `None`")]
    pub fn next(&mut self) -> Result<Option<Item>, StreamError> {
        while let Some(line) = self.line()? {
            if line.is_empty() {
                if let Some(item) = self.dispatch()? {
                    return Ok(Some(item));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event),
                "data" => {
                    if self.has_data {
                        self.data.push('\n');
                    }
                    self.has_data = true;
                    self.data.push_str(value);
                }
                "id" => self.id = Some(value.to_owned()),
                "retry" => {
                    if let Ok(millis) = value.parse() {
                        self.retry = Duration::from_millis(millis).clamp(MIN_RETRY, MAX_RETRY);
                    }
                }
                _ => {}
            }
        }
        if self.input.len() - self.start + self.data.len() > MAX_FRAME_BYTES {
            return Err(StreamError::TooLong);
        }
        Ok(None)
    }

    /// Takes one line off the input, without its end.
    fn line(&mut self) -> Result<Option<String>, StreamError> {
        if self.start < self.input.len() && mem::take(&mut self.skips_line_feed) {
            self.start += usize::from(self.input[self.start] == b'\n');
        }
        let rest = &self.input[self.start..];
        let searched = self.searched.saturating_sub(self.start);
        let end = rest[searched..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(length) = end.map(|end| searched + end) else {
            self.searched = self.input.len();
            return Ok(None);
        };
        if length + self.data.len() > MAX_FRAME_BYTES {
            return Err(StreamError::TooLong);
        }
        let mut line = String::from_utf8_lossy(&rest[..length]).into_owned();
        if !mem::replace(&mut self.has_begun, true) && line.starts_with('\u{feff}') {
            line.remove(0);
        }
        self.skips_line_feed = rest[length] == b'\r';
        self.start += length + 1;
        Ok(Some(line))
    }

    fn forget_frame(&mut self) {
        self.event.clear();
        self.data.clear();
        self.has_data = false;
        self.id = None;
    }

    /// Ends a frame, which shows that the daemon serves. One without data only says where the stream is (STR-32).
    fn dispatch(&mut self) -> Result<Option<Item>, StreamError> {
        let (event, data) = (mem::take(&mut self.event), mem::take(&mut self.data));
        let (has_data, id) = (mem::take(&mut self.has_data), self.id.take());
        let id = id.filter(|id| !id.is_empty());
        let id = id.map(|id| id.parse().map_err(|_| StreamError::Id)).transpose()?;
        self.failures = 0;
        if !has_data {
            self.after = id.or(self.after);
            return Ok(None);
        }
        let envelope: Envelope<'_> = object(&data)?;
        let inner = envelope.data.get();
        Ok(Some(match event.as_str() {
            "gap" => {
                let gap: GapData = object(inner)?;
                let first: EventId = gap.first.parse().map_err(|_| StreamError::Id)?;
                let before = EventId { epoch: first.epoch, seq: first.seq.saturating_sub(1) };
                Item::Gap { first, after: self.after.replace(before) }
            }
            "superseded" => {
                let superseded: SupersededData = object(inner)?;
                self.is_superseded = true;
                Item::Superseded { successor: superseded.successor.and_then(|id| id.parse().ok()) }
            }
            "shutdown" => Item::Shutdown,
            _ => {
                let id = id.ok_or(StreamError::Id)?;
                self.after = Some(id);
                let Envelope { topic, at, data } = envelope;
                Item::Event(Event { id, topic, at, data: data.to_owned() })
            }
        }))
    }
}

/// Parses a JSON object. What is read by its members would be read from a list as well.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, StreamError> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err(StreamError::Data);
    }
    serde_json::from_str(text).map_err(|_| StreamError::Data)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::format;
    use alloc::vec;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn items(reader: &mut Reader) -> Vec<String> {
        let mut items = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            items.push(match item {
                Item::Event(event) => format!("{} {} {}", event.id, event.topic, event.data),
                Item::Gap { first, after } => {
                    format!("gap {first} {}", after.map_or("-".to_owned(), |id| id.to_string()))
                }
                Item::Superseded { successor } => format!("superseded {}", successor.is_some()),
                Item::Shutdown => "shutdown".to_owned(),
            });
        }
        items
    }

    fn frame(id: &str, topic: &str, data: &str) -> String {
        format!("id: {id}\nevent: {topic}\ndata: {{\"topic\":\"{topic}\",\"at\":\"t\",\"data\":{data}}}\n\n")
    }

    fn aside(topic: &str, data: &str) -> String {
        format!("event: {topic}\ndata: {{\"topic\":\"{topic}\",\"at\":\"t\",\"data\":{data}}}\n\n")
    }

    #[test]
    fn the_next_stream_goes_on_after_the_last_event_that_was_returned() {
        let mut reader = Reader::new(None);
        reader.push(b"retry: 500\n\nid: 0000000a-3\n\n");
        assert!(items(&mut reader).is_empty());
        assert_eq!(reader.after().unwrap().to_string(), "0000000a-3");
        let two = [frame("0000000a-4", "n", "1"), frame("0000000a-5", "n", "2")].concat();
        reader.push(two.as_bytes());
        assert!(matches!(reader.next(), Ok(Some(Item::Event(event))) if event.data.get() == "1"));
        assert_eq!(reader.after().unwrap().seq, 4);
        assert_eq!(items(&mut reader), ["0000000a-5 n 2"]);
        // What was cut in the middle is asked for again.
        reader.push(&frame("0000000a-6", "n", "3").as_bytes()[..20]);
        assert!(items(&mut reader).is_empty());
        reader.cut();
        assert_eq!(reader.after().unwrap().seq, 5);
        reader.push(frame("0000000a-6", "n", "3").as_bytes());
        assert_eq!(items(&mut reader), ["0000000a-6 n 3"]);
    }

    #[test]
    fn after_a_gap_the_stream_goes_on_at_its_first_event() {
        let mut reader = Reader::new(Some("0000000a-7".parse().unwrap()));
        reader.push(aside("gap", r#"{"first":"0000000b-1","after":"0000000a-7"}"#).as_bytes());
        assert_eq!(items(&mut reader), ["gap 0000000b-1 0000000a-7"]);
        assert_eq!(reader.after().unwrap().to_string(), "0000000b-0");
    }

    #[test]
    fn a_successor_is_asked_at_once_and_a_daemon_that_is_gone_ever_later() {
        let mut reader = Reader::new(None);
        reader.push(aside("superseded", "{}").as_bytes());
        assert_eq!(items(&mut reader), ["superseded false"]);
        assert_eq!(reader.delay(0), Duration::ZERO);
        let delays: Vec<u128> = (0..7).map(|_| reader.delay(u32::MAX).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        reader.push(b"retry: 20\n\n");
        reader.push(frame("0000000a-1", "n", "1").as_bytes());
        items(&mut reader);
        assert_eq!(
            (reader.delay(0), reader.delay(u32::MAX)),
            (Duration::from_millis(10), Duration::from_millis(40))
        );
    }

    #[test]
    fn a_retry_of_zero_is_no_reason_to_look_without_a_pause() {
        let mut reader = Reader::new(None);
        reader.push(b"retry: 0\n\n");
        assert!(items(&mut reader).is_empty());
        let delays: Vec<u128> = (0..12).map(|_| reader.delay(0).as_millis()).collect();
        assert!(delays[0] >= 5 && delays[11] == 5000, "{delays:?}");
    }

    #[test]
    fn a_long_line_that_comes_in_small_parts_is_searched_once() {
        let text = frame("0000000a-1", "n", &format!("\"{}\"", "x".repeat(3 * 1024 * 1024)));
        let mut reader = Reader::new(None);
        let began = std::time::Instant::now();
        let seen: Vec<String> = text
            .as_bytes()
            .chunks(256)
            .flat_map(|part| {
                reader.push(part);
                items(&mut reader)
            })
            .collect();
        assert_eq!(seen.len(), 1);
        // It was minutes.
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn what_is_no_stream_of_this_protocol_is_an_error() {
        for (text, error) in [
            (frame("7", "n", "1"), StreamError::Id),
            (aside("n", "1"), StreamError::Id),
            (aside("gap", "{}"), StreamError::Data),
            (aside("gap", r#"{"first":"1"}"#), StreamError::Id),
            ("data: hello\n\n".to_owned(), StreamError::Data),
            ("id: 0000000a-1\ndata: [\"n\",\"t\",1]\n\n".to_owned(), StreamError::Data),
            (aside("gap", r#"["0000000a-1"]"#), StreamError::Data),
        ] {
            let mut reader = Reader::new(None);
            reader.push(text.as_bytes());
            assert_eq!(reader.next().unwrap_err(), error, "{text}");
        }
        let mut reader = Reader::new(None);
        reader.push(&vec![b'x'; MAX_FRAME_BYTES + 1]);
        assert_eq!(reader.next().unwrap_err(), StreamError::TooLong);
        let mut reader = Reader::new(None);
        let line = format!("data: {}\n", "x".repeat(1024 * 1024));
        let seen = (0..6).find_map(|_| {
            reader.push(line.as_bytes());
            reader.next().err()
        });
        assert_eq!(seen, Some(StreamError::TooLong));
    }

    proptest! {
        /// However the bytes are split, and whichever line ends they have, the items are the same.
        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(1..40_usize, 1..40), end in prop::sample::select(vec!["\n", "\r", "\r\n"])) {
            let text = [
                ":\n\n".to_owned(),
                frame("0000000a-1", "n", "\"\u{fc}\""),
                aside("gap", r#"{"first":"0000000a-9"}"#),
                frame("0000000a-9", "n", "{}"),
                aside("shutdown", "{}"),
            ].concat().replace('\n', end);
            let mut reader = Reader::new(None);
            let (mut seen, mut rest) = (Vec::new(), text.as_bytes());
            for cut in cuts.iter().cycle() {
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                reader.push(piece);
                seen.extend(items(&mut reader));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, ["0000000a-1 n \"\u{fc}\"", "gap 0000000a-9 0000000a-1", "0000000a-9 n {}", "shutdown"]);
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(None);
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
