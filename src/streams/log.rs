//! The log: framed bytes in their order, held up to a bound, and what comes after a place in it. No I/O, no clock, no
//! lock. `tests/it/loom.rs` runs this very file.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::ops::Range;

use bytes::Bytes;
use local_daemon_proto::events::EventId;

/// How much is read at a time, in bytes: frames stand in segments of this size, and a longer one in one of its own.
const SEGMENT: usize = 32 * 1024;

/// How much a log holds: whichever bound is met first (STR-21, STR-22).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most events.
    pub events: usize,
    /// The most bytes of frames.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 4096, bytes: 4 * 1024 * 1024 }
    }
}

/// Some topics of a log, by their places in its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Topics(pub(crate) u64);

impl Topics {
    pub(crate) const ALL: Self = Self(u64::MAX);

    fn contain(self, topic: u8) -> bool {
        self.0 >> topic & 1 == 1
    }
}

/// How far a subscriber has come.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    /// The number of the event that comes next.
    next: u64,
    /// The place that it was promised and cannot have.
    lost: Option<EventId>,
    topics: Topics,
}

/// What comes after a cursor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    /// Whole frames.
    Frames(Bytes),
    /// What was asked for is not held (STR-17).
    Gap {
        /// Where the stream goes on.
        first: EventId,
        /// After what it should have gone on.
        after: EventId,
    },
}

#[derive(Debug)]
pub(crate) struct Log {
    epoch: u32,
    limits: Limits,
    /// The oldest event that is held, or the next one to come. Older frames of its segment may still be there.
    first: u64,
    /// The next event to come.
    next: u64,
    /// Bytes of the frames that are held.
    bytes: usize,
    /// What takes no more frames: readers share it.
    sealed: VecDeque<Segment<Bytes>>,
    /// What is appended to: readers copy from it.
    open: Segment<Vec<u8>>,
}

/// Frames without anything between them.
#[derive(Debug)]
struct Segment<T> {
    /// The number of its first event.
    first: u64,
    marks: Vec<Mark>,
    text: T,
}

/// Where a frame ends in its segment, and what it is about.
#[derive(Debug)]
struct Mark {
    end: usize,
    topic: u8,
}

impl Log {
    pub(crate) fn new(epoch: u32, limits: Limits) -> Self {
        Self {
            epoch,
            limits,
            first: 1, // STR-11
            next: 1,
            bytes: 0,
            sealed: VecDeque::new(),
            open: Segment::from(1),
        }
    }

    fn id(&self, seq: u64) -> EventId {
        EventId { epoch: self.epoch, seq }
    }

    /// Returns how much it may hold.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// The oldest event that is held, or the next one to come.
    pub(crate) fn first(&self) -> EventId {
        self.id(self.first)
    }

    /// The next event to come.
    pub(crate) fn next(&self) -> EventId {
        self.id(self.next)
    }

    /// Returns the last event, or number 0 before the first one.
    pub(crate) fn last(&self) -> EventId {
        self.id(self.next - 1)
    }

    /// How long the frames that are held are together.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends an event whose `data` is one line of JSON; `topic` is the place of `name` in the list of topics. It is
    /// framed here, once for all readers (STR-13).
    ///
    /// # Errors
    ///
    /// The frame could not be kept. There is no such event then.
    pub(crate) fn append(
        &mut self,
        topic: u8,
        name: &str,
        data: &[u8],
        keep: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<EventId> {
        let id = self.next();
        // A frame is a little longer than its data: the id, the names of the fields, the topic.
        self.seal_before(data.len() + 64);
        let text = &mut self.open.text;
        let begin = text.len();
        write!(text, "id: {id}\nevent: {name}\ndata: ").expect("a vector takes every byte");
        text.extend_from_slice(data);
        text.extend_from_slice(b"\n\n");
        if let Err(error) = keep(&text[begin..]) {
            text.truncate(begin);
            return Err(error);
        }
        self.count(topic, begin);
        Ok(id)
    }

    /// Appends a frame as it was kept. It is the next one.
    pub(crate) fn restore(&mut self, topic: u8, frame: &[u8]) {
        self.seal_before(frame.len());
        let begin = self.open.text.len();
        self.open.text.extend_from_slice(frame);
        self.count(topic, begin);
    }

    /// Forgets every event; the next one is this.
    pub(crate) fn restart(&mut self, next: u64) {
        (self.first, self.next, self.bytes) = (next, next, 0);
        self.sealed.clear();
        self.open = Segment::from(next);
    }

    /// Makes room for a frame of this length.
    fn seal_before(&mut self, length: usize) {
        if !self.open.marks.is_empty() && self.open.text.len() + length > SEGMENT {
            let full = std::mem::replace(&mut self.open, Segment::from(self.next));
            self.sealed.push_back(full.seal());
        }
    }

    /// The text of the next event stands from `begin` on.
    fn count(&mut self, topic: u8, begin: usize) {
        let end = self.open.text.len();
        self.open.marks.push(Mark { end, topic });
        self.bytes += end - begin;
        self.next += 1;
        self.trim();
    }

    /// STR-21, STR-22: exactly as many of the oldest go as have to.
    fn trim(&mut self) {
        while self.next - self.first > self.limits.events as u64 || self.bytes > self.limits.bytes {
            let (length, ended) = match self.sealed.front() {
                Some(oldest) => (oldest.length(self.first), oldest.end() == self.first + 1),
                None => (self.open.length(self.first), false),
            };
            self.bytes -= length;
            self.first += 1;
            if ended {
                self.sealed.pop_front();
            }
        }
        if self.first == self.next && !self.open.marks.is_empty() {
            self.open = Segment::from(self.next);
        }
    }

    /// Where a subscriber begins that has seen everything up to `after`, or wants what comes from now on (STR-3, STR-15).
    pub(crate) fn cursor(&self, after: Option<EventId>, topics: Topics) -> Cursor {
        let (next, lost) = match after {
            None => (self.next, None),
            Some(id) if id.epoch == self.epoch && id.seq < self.next => (id.seq + 1, None),
            // STR-18: of another log, or of a future that never was.
            Some(id) => (self.first, Some(id)),
        };
        Cursor { next, lost, topics }
    }

    /// What comes next, which the cursor has then passed; `None`: nothing yet (STR-4, STR-12, STR-17, STR-26).
    pub(crate) fn read(&self, cursor: &mut Cursor) -> Option<Piece> {
        if cursor.next < self.first && cursor.lost.is_none() {
            cursor.lost = Some(self.id(cursor.next - 1));
        }
        if let Some(after) = cursor.lost.take() {
            cursor.next = self.first;
            let first = self.id(self.first);
            return Some(Piece::Gap { first, after });
        }
        while cursor.next < self.next {
            let place = self.sealed.partition_point(|segment| segment.end() <= cursor.next);
            let frames = match self.sealed.get(place) {
                Some(segment) => segment.after(cursor, |range| segment.text.slice(range)),
                None => self.open.after(cursor, |range| Bytes::copy_from_slice(&self.open.text[range])),
            };
            if !frames.is_empty() {
                return Some(Piece::Frames(frames));
            }
        }
        None
    }
}

impl<T: AsRef<[u8]>> Segment<T> {
    /// The number after its last event.
    fn end(&self) -> u64 {
        self.first + self.marks.len() as u64
    }

    /// The place of an event of it among its marks.
    fn place(&self, seq: u64) -> usize {
        usize::try_from(seq - self.first).expect("a segment is held in memory")
    }

    /// Where the frame of this place among its marks begins.
    fn begin(&self, place: usize) -> usize {
        place.checked_sub(1).map_or(0, |before| self.marks[before].end)
    }

    /// How long the frame of an event is.
    fn length(&self, seq: u64) -> usize {
        let place = self.place(seq);
        self.marks[place].end - self.begin(place)
    }

    /// The wanted frames after the cursor, which moves to the end; `cut` gives a range as it is.
    fn after(&self, cursor: &mut Cursor, cut: impl Fn(Range<usize>) -> Bytes) -> Bytes {
        let place = self.place(cursor.next);
        cursor.next = self.end();
        let wanted = |mark: &Mark| cursor.topics.contain(mark.topic);
        let text = self.text.as_ref();
        if cursor.topics == Topics::ALL || self.marks[place..].iter().all(wanted) {
            return cut(self.begin(place)..text.len());
        }
        let mut frames = Vec::new();
        for (place, mark) in self.marks.iter().enumerate().skip(place) {
            if wanted(mark) {
                frames.extend_from_slice(&text[self.begin(place)..mark.end]);
            }
        }
        frames.into()
    }
}

impl Segment<Vec<u8>> {
    fn from(first: u64) -> Self {
        Self { first, marks: Vec::new(), text: Vec::new() }
    }

    fn seal(self) -> Segment<Bytes> {
        Segment {
            first: self.first,
            marks: self.marks,
            text: self.text.into_boxed_slice().into(),
        }
    }
}
