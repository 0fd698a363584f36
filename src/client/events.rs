//! Reads an event stream over as many connections as it takes: after a cut, a restart or a displacement it finds the daemon
//! again and resumes after the last event.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use local_daemon_proto::connect::ConnectOutcome;
use local_daemon_proto::events::{EventId, Item, Reader, StreamError};

use super::request::{DEFAULT_MAX_ANSWER_BYTES, Problem, Request, RequestError, RequestErrorKind, reason_of};
use super::{Client, ConnectError, DEFAULT_TIMEOUT};
use crate::exchange::{ExchangeError, Wire, deadline_in};
use crate::platform;
use crate::state_directory::random_word;

/// How long a stream may say nothing: a daemon says something each 15 s (STR-27).
const SILENCE_BOUND: Duration = Duration::from_secs(20);
/// A shorter wait would read nothing.
const MIN_BOUND: Duration = Duration::from_millis(1);
/// How long a connect or the reason of a refusal may take, even if less is left.
const MIN_CONNECT: Duration = Duration::from_millis(100);
/// How much of a stream is read at a time, in bytes.
const PART: usize = 64 * 1024;

/// The events of a stream, each once and in order, over cuts, restarts and displacements of the daemon.
///
/// It waits for a daemon that is not there, and starts none. A bearer is sent on no connection that has not proven itself
/// (HS-25).
///
/// ```no_run
/// use local_daemon::Client;
/// use local_daemon::events::Item;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let daemon = Client::new("acme", "acme/1")?.connect()?;
/// for item in daemon.events("/v1/events").topics(["jobs"]) {
///     match item? {
///         Item::Event(event) => println!("{}: {}", event.topic, event.data),
///         Item::Gap { after, .. } => println!("events after {after:?} are lost"),
///         Item::Shutdown => break,
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Events {
    client: Client,
    course: Course,
    wire: Option<Wire>,
    /// Whether the head of the answer has come on it.
    is_open: bool,
}

impl Events {
    pub(super) fn new(client: Client, path: &str) -> Self {
        Self { client, course: Course::new(path), wire: None, is_open: false }
    }

    /// Selects topics; without this, all of them come (STR-4).
    #[must_use]
    pub fn topics<'a>(mut self, topics: impl IntoIterator<Item = &'a str>) -> Self {
        self.course.select(topics);
        self
    }

    /// Begins after this event, and not with what happens from now on.
    #[must_use]
    pub fn after(mut self, id: EventId) -> Self {
        self.course.begin_after(id);
        self
    }

    /// Returns the event after which the stream goes on if it is cut now. A program that keeps it resumes there later.
    pub fn last_id(&self) -> Option<EventId> {
        self.course.last_id()
    }

    /// Waits for what the stream says next, at most `bound`, but 100 ms for a connect; returns `None` if that is nothing. It can be
    /// called again after each outcome.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn next_within(&mut self, bound: Duration) -> Result<Option<Item>, EventsError> {
        let ends = deadline_in(bound.max(MIN_BOUND));
        loop {
            match self.course.next() {
                Ok(Some(item)) => return Ok(Some(item)),
                Ok(None) => {}
                Err(error) => {
                    self.wire = None;
                    return Err(error);
                }
            }
            if Instant::now() >= ends {
                return Ok(None);
            }
            match self.wire {
                None => self.open(ends)?,
                Some(_) if self.is_open => self.read(ends),
                Some(_) => self.read_head(ends)?,
            }
        }
    }

    fn read(&mut self, ends: Instant) {
        let Some(wire) = &mut self.wire else { return };
        wire.renew_framing();
        let silent = self.course.silent_at();
        match wire.part(PART, ends.min(silent)) {
            Ok(Some(part)) => self.course.push(&part),
            // It may go on later.
            Err(ExchangeError::TimedOut) if Instant::now() < silent => {}
            Ok(None) | Err(_) => {
                self.wire = None;
                self.course.cut();
            }
        }
    }

    /// Reads the head of the answer to the request for the stream.
    fn read_head(&mut self, ends: Instant) -> Result<(), EventsError> {
        let Some(mut wire) = self.wire.take() else { return Ok(()) };
        let due = self.course.spoke + DEFAULT_TIMEOUT;
        let answer = match wire.answer(0, ends.min(due)) {
            Ok(answer) => answer,
            // It may come later.
            Err(ExchangeError::TimedOut) if Instant::now() < due => {
                self.wire = Some(wire);
                return Ok(());
            }
            Err(error) => {
                tracing::debug!(%error, "an event stream could not be opened");
                self.course.cut();
                return Ok(());
            }
        };
        match self.course.answered(answer.status, answer.header("content-type"))? {
            Answered::Opened => (self.wire, self.is_open) = (Some(wire), true),
            Answered::Later => {}
            Answered::Refused => {
                let (status, mut body) = (answer.status, Vec::new());
                let read =
                    wire.whole_body(&mut body, DEFAULT_MAX_ANSWER_BYTES, ends.max(deadline_in(MIN_CONNECT)));
                let problem = read.ok().and_then(|()| serde_json::from_slice(&body).ok());
                return Err(EventsError::Refused { status, problem });
            }
        }
        Ok(())
    }

    /// Asks for the next stream, or waits until it is time to.
    fn open(&mut self, ends: Instant) -> Result<(), EventsError> {
        let wait = self.course.due.min(ends).saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            self.wait(wait);
            return Ok(());
        }
        let left = ends.saturating_duration_since(Instant::now());
        let client = self.client.clone();
        let deadline = client_deadline(&self.client, left);
        let mut connection = match client.deadline(deadline).connect() {
            Ok(connection) => connection,
            Err(error) => return self.course.could_not_connect(error),
        };
        let mut request = Request::get(&self.course.path());
        for (name, value) in self.course.headers() {
            request = request.header(name, &value);
        }
        match connection.ask(&mut request, deadline_in(deadline)) {
            Ok((wire, _)) => {
                (self.wire, self.is_open) = (Some(wire), false);
                self.course.spoke = Instant::now();
                Ok(())
            }
            Err(error) => self.course.could_not_ask(error),
        }
    }

    /// Waits until the record changes, at most `bound`: a daemon that is back is asked at once.
    fn wait(&mut self, bound: Duration) {
        let directory = self.client.state_dir.path();
        // Without change notification, the time alone ends the wait.
        let watch = platform::Watch::of(directory).ok();
        let [has_changed] = platform::readable([watch.as_ref().map(AsFd::as_fd)], bound);
        if has_changed {
            self.course.due = Instant::now();
        }
    }
}

/// What a reader of events decides, whichever client reads: what to ask for, when, and what an answer or its absence means.
#[derive(Debug)]
pub(super) struct Course {
    path: String,
    topics: Option<String>,
    reader: Reader,
    /// When the daemon last said something.
    spoke: Instant,
    /// When the next stream may be opened.
    pub(super) due: Instant,
}

/// What the status code of an answer means.
pub(super) enum Answered {
    /// The stream is open.
    Opened,
    /// The next daemon, or the next credential, will do.
    Later,
    Refused,
}

impl Course {
    pub(super) fn new(path: &str) -> Self {
        let now = Instant::now();
        Self {
            path: path.to_owned(),
            topics: None,
            reader: Reader::new(None),
            spoke: now,
            due: now,
        }
    }

    pub(super) fn select<'a>(&mut self, topics: impl IntoIterator<Item = &'a str>) {
        self.topics = Some(topics.into_iter().collect::<Vec<_>>().join(","));
    }

    pub(super) fn begin_after(&mut self, id: EventId) {
        self.reader = Reader::new(Some(id));
    }

    pub(super) fn last_id(&self) -> Option<EventId> {
        self.reader.after()
    }

    /// Returns the path of the next stream.
    pub(super) fn path(&self) -> String {
        let mut path = self.path.clone();
        if let Some(topics) = &self.topics {
            let joint = if path.contains('?') { '&' } else { '?' };
            path.push(joint);
            path.push_str("topics=");
            path.push_str(topics);
        }
        path
    }

    /// Returns the headers of the request for it.
    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("Accept", "text/event-stream".to_owned())];
        headers.extend(self.reader.after().map(|after| ("Last-Event-ID", after.to_string())));
        headers
    }

    /// Returns what the stream says next, if that is there. After an error the stream is not read on.
    pub(super) fn next(&mut self) -> Result<Option<Item>, EventsError> {
        self.reader.next().map_err(|error| {
            self.cut();
            EventsError::Stream(error)
        })
    }

    /// Takes a part of the stream.
    pub(super) fn push(&mut self, part: &[u8]) {
        self.reader.push(part);
        self.spoke = Instant::now();
    }

    /// Returns when a stream that says nothing is given up.
    pub(super) fn silent_at(&self) -> Instant {
        self.spoke + SILENCE_BOUND
    }

    /// Notes that the stream has ended.
    pub(super) fn cut(&mut self) {
        self.reader.cut();
        self.due = deadline_in(self.reader.delay(random_word()));
    }

    pub(super) fn could_not_connect(&mut self, error: ConnectError) -> Result<(), EventsError> {
        self.cut();
        match error.outcome {
            // It may come, or answer later.
            ConnectOutcome::Absent
            | ConnectOutcome::Stale
            | ConnectOutcome::Busy
            | ConnectOutcome::Unreachable => Ok(()),
            _ => Err(EventsError::Connect(error)),
        }
    }

    pub(super) fn could_not_ask(&mut self, error: RequestError) -> Result<(), EventsError> {
        self.cut();
        if matches!(error.kind(), RequestErrorKind::Invalid(_)) {
            return Err(EventsError::Request(error));
        }
        tracing::debug!(%error, "an event stream could not be opened");
        Ok(())
    }

    /// Takes the status code and the type of an answer. Unless it has opened the stream, the next attempt is made later.
    pub(super) fn answered(
        &mut self,
        status: u16,
        content_type: Option<&str>,
    ) -> Result<Answered, EventsError> {
        let media_type = content_type.and_then(|text| text.split(';').next()).unwrap_or_default();
        if status == 200 && media_type.trim().eq_ignore_ascii_case("text/event-stream") {
            self.spoke = Instant::now();
            return Ok(Answered::Opened);
        }
        self.cut();
        match status {
            200 => Err(EventsError::Stream(StreamError::Type)),
            // 503: it stands down, and the next one will answer. 401: the credential was replaced in between.
            401 | 503 => Ok(Answered::Later),
            _ => Ok(Answered::Refused),
        }
    }
}

/// Returns how long a connect may take within what is left: at least long enough for one that is healthy.
fn client_deadline(client: &Client, left: Duration) -> Duration {
    left.clamp(MIN_CONNECT, client.deadline.max(MIN_CONNECT))
}

impl Iterator for Events {
    type Item = Result<Item, EventsError>;

    /// Waits for what the stream says next. It never ends by itself.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.next_within(Duration::MAX).transpose() {
                return Some(item);
            }
        }
    }
}

/// A stream that cannot be read, or not now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// The daemon refuses the stream, for instance because it has no such topic.
    #[error("the daemon refuses the stream with {status}{}", reason_of(.problem.as_ref()))]
    Refused {
        /// The status of its answer.
        status: u16,
        /// Its reason.
        problem: Option<Problem>,
    },
    /// The daemon cannot be reached, and waiting does not help: it is foreign, incompatible, or its files are refused.
    #[error(transparent)]
    Connect(ConnectError),
    /// The path or a topic cannot be sent.
    #[error(transparent)]
    Request(RequestError),
    /// What the daemon sent is not a stream of this protocol.
    #[error(transparent)]
    Stream(StreamError),
}
