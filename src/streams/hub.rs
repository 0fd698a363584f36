//! The log and its readers, behind one lock. A reader that has read everything leaves its waker under that lock, so
//! that no event slips in between the look and the wait. `tests/it/loom.rs` runs this very file.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::{fmt, io};

use bytes::Bytes;
use local_daemon_proto::events::{EventId, ParseEventIdError};

use super::log::{Cursor, Limits, Log, Piece, Topics};
use super::sync::{Mutex, MutexGuard};

/// The events of one epoch, and their subscribers. A daemon's own is made by
/// [`Handle::events`](crate::daemon::Handle::events).
///
/// ```
/// use std::sync::Arc;
///
/// use local_daemon::streams::{Hub, Limits, Selection};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = Arc::new(Hub::new(7, &["jobs"], Limits::default()));
/// let id = hub.append("jobs", &"build")?;
/// assert_eq!(id, Some(hub.last()));
/// let answer = hub.subscribe(&Selection::parse(Some("jobs"), None, [])?)?.into_response();
/// assert_eq!(answer.headers()["content-type"], "text/event-stream");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Hub {
    topics: Box<[&'static str]>,
    inner: Mutex<Inner>,
}

/// What keeps a log beyond the life of the process.
pub(super) trait Keep: fmt::Debug + Send {
    /// Keeps a frame, before it can be read. If it fails, nothing of the frame is kept.
    fn keep(&mut self, frame: &[u8]) -> io::Result<()>;

    /// The log has taken the frame, and may have forgotten others for it. Where it fails, they are still kept.
    fn tidy(&mut self, log: &Log) -> io::Result<()>;
}

#[derive(Debug)]
struct Inner {
    log: Log,
    keeper: Option<Box<dyn Keep>>,
    /// The last frame of every stream, once there is one.
    end: Option<Bytes>,
    /// The waker of each subscriber that waits (STR-23).
    seats: BTreeMap<u64, Option<Waker>>,
    /// How many seats ever were.
    count: u64,
    /// How many seats have a waker: a burst of events wakes once.
    waiting: usize,
}

impl Inner {
    /// Returns the waker of each reader that waits, to be woken once the lock is let go.
    fn wakers(&mut self) -> Vec<Waker> {
        if self.waiting == 0 {
            return Vec::new();
        }
        self.waiting = 0;
        self.seats.values_mut().filter_map(Option::take).collect()
    }
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// What a request for a stream asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// The topics; all of them where it names none.
    pub topics: Option<Vec<String>>,
    /// The event after which the stream begins; without one it begins now.
    pub after: Option<EventId>,
}

impl Selection {
    /// Reads the decoded query parameters `topics` and `after`, and every `Last-Event-ID` header: the header wins, for a
    /// browser that reconnects sends it with the address that it began with (STR-16). An empty header counts as none (STR-33).
    ///
    /// # Errors
    ///
    /// Fails if `after` or the header is no event id, even if the other one is (STR-20), or if there are two headers.
    pub fn parse<'a>(
        topics: Option<&str>,
        after: Option<&str>,
        last_event_id: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, ParseEventIdError> {
        let after: Option<EventId> = after.map(str::parse).transpose()?;
        let mut headers = last_event_id.into_iter().filter(|id| !id.is_empty());
        let last = match (headers.next(), headers.next()) {
            (None, _) => None,
            (Some(id), None) => Some(str::from_utf8(id).map_err(|_| ParseEventIdError)?.parse()?),
            (Some(_), Some(_)) => return Err(ParseEventIdError),
        };
        Ok(Self {
            topics: topics.map(|topics| topics.split(',').map(str::to_owned).collect()),
            after: last.or(after),
        })
    }
}

/// Why a stream cannot be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// There is no such topic (STR-5).
    #[error("there is no such topic")]
    UnknownTopic,
    /// The streams have ended (STR-6).
    #[error("the streams have ended")]
    Ended,
}

/// What a subscriber gets next.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a subscriber handles each")]
pub enum Next {
    /// Whole frames of the log.
    Frames(Bytes),
    /// Events that were asked for are not held, never were, or are another epoch's (STR-17, STR-18).
    Gap {
        /// Where the stream goes on: the oldest event that is held, or the next one to come.
        first: EventId,
        /// After what it should have gone on.
        after: EventId,
    },
    /// The last frame.
    End(Bytes),
    /// Nothing any more: the last frame was given.
    Closed,
}

impl Hub {
    /// Returns a log without events, in memory.
    ///
    /// # Panics
    ///
    /// Panics if there are more than 64 topics, or if one of them is no name: it is empty, contains a comma or a control
    /// character, or is `gap`, `superseded` or `shutdown`, by which a stream tells about itself (STR-19).
    pub fn new(epoch: u32, topics: &[&'static str], limits: Limits) -> Self {
        Self::of(Log::new(epoch, limits), topics, None)
    }

    pub(super) fn of(log: Log, topics: &[&'static str], keeper: Option<Box<dyn Keep>>) -> Self {
        assert!(topics.len() <= 64, "topics are counted in 64 bits");
        let is_name = |topic: &str| {
            !matches!(topic, "" | "gap" | "superseded" | "shutdown")
                && !topic.contains(|char: char| char == ',' || char.is_control())
        };
        assert!(topics.iter().all(|topic| is_name(topic)), "one of the topics {topics:?} is no name");
        let inner = Inner { log, keeper, end: None, seats: BTreeMap::new(), count: 0, waiting: 0 };
        Self { topics: topics.into(), inner: Mutex::new(inner) }
    }

    /// Goes on with a log that was read back, kept by `keeper`; if the streams have ended, `keeper` is dropped.
    pub(super) fn go_on_with(&self, log: Log, keeper: Box<dyn Keep>) {
        let mut inner = self.inner();
        if inner.end.is_some() {
            return;
        }
        inner.log = log;
        inner.keeper = Some(keeper);
        let wakers = inner.wakers();
        drop(inner);
        wake(wakers);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code of the product's runs under the lock, so a holder that panicked was at its end or at its beginning.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the topics.
    pub fn topics(&self) -> &[&'static str] {
        &self.topics
    }

    /// Returns the last event, or number 0 before the first one. A log that is kept in a file goes on after it.
    pub fn last(&self) -> EventId {
        self.inner().log.last()
    }

    /// Returns how many subscribers there are (STR-24).
    pub fn subscribers(&self) -> usize {
        self.inner().seats.len()
    }

    /// Appends an event for everybody who wants its topic, as [`append`](Self::append) does, for a product that writes the whole
    /// `data` of the frame itself: on one line, a JSON object with `topic`, `at` and `data` (STR-14), which is not checked here.
    /// Returns `None` if the streams have ended, so that no reader would ever see it.
    ///
    /// # Errors
    ///
    /// Fails if `data` contains a line break, which would end its frame, or is not UTF-8, or if the log is a file and could not be
    /// written. The event is then sent to no subscriber, and its number is that of the next one.
    ///
    /// # Panics
    ///
    /// Panics if there is no such topic.
    pub fn append_line(&self, topic: &str, data: &[u8]) -> io::Result<Option<EventId>> {
        let place = self.place(topic).expect("the product appends to its own topics");
        if data.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the data of an event is one line"));
        }
        if str::from_utf8(data).is_err() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the data of an event is UTF-8"));
        }
        let mut inner = self.inner();
        if inner.end.is_some() {
            return Ok(None);
        }
        let Inner { log, keeper, .. } = &mut *inner;
        let (id, tidied) = match keeper {
            None => (log.append(place, topic, data, |_| Ok(()))?, Ok(())),
            Some(keeper) => {
                let id = log.append(place, topic, data, |frame| keeper.keep(frame))?;
                (id, keeper.tidy(log))
            }
        };
        let wakers = inner.wakers();
        drop(inner);
        wake(wakers);
        if let Err(error) = tidied {
            tracing::warn!(%error, "the file of a log grows: it cannot be replaced by a shorter one");
        }
        Ok(Some(id))
    }

    /// Ends every stream with this frame, after all that the log holds (STR-28, STR-29). The first end counts. A file
    /// that the log was kept in is another's from here on (CTL-22).
    pub fn end_with(&self, frame: Bytes) {
        let mut inner = self.inner();
        inner.end.get_or_insert(frame);
        let keeper = inner.keeper.take();
        let wakers = inner.wakers();
        drop(inner);
        drop(keeper);
        wake(wakers);
    }

    fn place(&self, topic: &str) -> Option<u8> {
        let place = self.topics.iter().position(|known| *known == topic)?;
        u8::try_from(place).ok()
    }

    /// Adds a subscriber, from now on or from after an event (STR-3, STR-15).
    ///
    /// # Errors
    ///
    /// Fails if there is no such topic (STR-5), or if the streams have ended (STR-6).
    pub fn subscribe(self: &Arc<Self>, selection: &Selection) -> Result<Subscriber, SubscribeError> {
        let topics = match &selection.topics {
            None => Topics::ALL,
            Some(names) => names.iter().try_fold(Topics(0), |topics, name| {
                let place = self.place(name).ok_or(SubscribeError::UnknownTopic)?;
                Ok(Topics(topics.0 | 1 << place))
            })?,
        };
        let mut inner = self.inner();
        if inner.end.is_some() {
            return Err(SubscribeError::Ended);
        }
        let (number, cursor) = (inner.count, inner.log.cursor(selection.after, topics));
        let begin = selection.after.is_none().then(|| inner.log.last());
        inner.count += 1;
        inner.seats.insert(number, None);
        drop(inner);
        Ok(Subscriber { hub: self.clone(), number, cursor, begin, has_ended: false })
    }
}

/// One reader of a [`Hub`]: a place in its log. Dropping it gives everything back (STR-24).
#[derive(Debug)]
pub struct Subscriber {
    hub: Arc<Hub>,
    number: u64,
    cursor: Cursor,
    begin: Option<EventId>,
    has_ended: bool,
}

impl Subscriber {
    /// Returns the last event before the stream, whose number is 0 if there was none; `None` if the request named the place
    /// itself (STR-32).
    pub fn begin(&self) -> Option<EventId> {
        self.begin
    }

    /// Returns what comes next. If there is nothing yet, the task is woken when there is. Nothing is kept for a subscriber
    /// that does not ask (STR-23, STR-25).
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let mut inner = self.hub.inner();
        let Inner { log, end, seats, waiting, .. } = &mut *inner;
        let seat = seats.get_mut(&self.number).expect("the seat goes with the subscriber");
        if self.has_ended {
            return Poll::Ready(Next::Closed);
        }
        if let Some(piece) = log.read(&mut self.cursor) {
            return Poll::Ready(match piece {
                Piece::Frames(frames) => Next::Frames(frames),
                Piece::Gap { first, after } => Next::Gap { first, after },
            });
        }
        if let Some(end) = end {
            self.has_ended = true;
            return Poll::Ready(Next::End(end.clone()));
        }
        match seat {
            Some(waker) => waker.clone_from(context.waker()),
            none => {
                *none = Some(context.waker().clone());
                *waiting += 1;
            }
        }
        Poll::Pending
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut inner = self.hub.inner();
        let seat = inner.seats.remove(&self.number);
        inner.waiting -= usize::from(seat.flatten().is_some());
    }
}
