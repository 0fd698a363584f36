//! Reads an event stream over as many connections as it takes: after a cut, a restart or a displacement it finds the daemon
//! again and resumes after the last event.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use local_daemon_proto::connect::ConnectOutcome;
use local_daemon_proto::events::{EventId, Item, Reader, StreamError};

use super::connection::Connection;
use super::request::{Problem, Request, RequestError, Response, reason_of};
use super::{Client, ConnectError};
use crate::exchange::{ExchangeError, Wire, deadline_in};
use crate::platform;
use crate::state_directory::random_word;

/// How long a stream may say nothing: a daemon says something each 15 s (STR-27).
const SILENCE_BOUND: Duration = Duration::from_secs(20);
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
    path: String,
    topics: Option<String>,
    reader: Reader,
    wire: Option<Wire>,
    /// When the daemon last said something.
    spoke: Instant,
    /// When the next stream may be opened.
    due: Instant,
}

impl Events {
    pub(super) fn new(client: Client, path: &str) -> Self {
        let now = Instant::now();
        Self {
            client,
            path: path.to_owned(),
            topics: None,
            reader: Reader::new(None),
            wire: None,
            spoke: now,
            due: now,
        }
    }

    /// Selects topics; without this, all of them come (STR-4).
    #[must_use]
    pub fn topics<'a>(mut self, topics: impl IntoIterator<Item = &'a str>) -> Self {
        self.topics = Some(topics.into_iter().collect::<Vec<_>>().join(","));
        self
    }

    /// Begins after this event, and not with what happens from now on.
    #[must_use]
    pub fn after(mut self, id: EventId) -> Self {
        self.reader = Reader::new(Some(id));
        self
    }

    /// Returns the event after which the stream goes on if it is cut now. A program that keeps it resumes there later.
    pub fn last_id(&self) -> Option<EventId> {
        self.reader.after()
    }

    /// Waits for what the stream says next, at most `bound`; `None` if that is nothing. It can be called again after each
    /// outcome.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn next_within(&mut self, bound: Duration) -> Result<Option<Item>, EventsError> {
        let ends = deadline_in(bound);
        loop {
            match self.reader.next() {
                Ok(Some(item)) => return Ok(Some(item)),
                Ok(None) => {}
                Err(error) => {
                    self.cut();
                    return Err(EventsError::Stream(error));
                }
            }
            if Instant::now() >= ends {
                return Ok(None);
            }
            if self.wire.is_some() {
                self.read(ends);
            } else {
                self.open(ends)?;
            }
        }
    }

    fn cut(&mut self) {
        self.wire = None;
        self.reader.cut();
        self.due = deadline_in(self.reader.delay(random_word()));
    }

    fn read(&mut self, ends: Instant) {
        let Some(wire) = &mut self.wire else { return };
        wire.renew_framing();
        let silent = self.spoke + SILENCE_BOUND;
        match wire.part(PART, ends.min(silent)) {
            Ok(Some(part)) => {
                self.reader.push(&part);
                self.spoke = Instant::now();
            }
            // It may go on later.
            Err(ExchangeError::TimedOut) if Instant::now() < silent => {}
            Ok(None) | Err(_) => self.cut(),
        }
    }

    /// Opens the next stream, or waits until it is time to.
    fn open(&mut self, ends: Instant) -> Result<(), EventsError> {
        let wait = self.due.min(ends).saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            self.wait(wait);
            return Ok(());
        }
        let left = ends.saturating_duration_since(Instant::now());
        let client = self.client.clone();
        let mut connection = match client.deadline(client_deadline(&self.client, left)).connect() {
            Ok(connection) => connection,
            Err(failure) => {
                self.cut();
                return match failure.outcome {
                    // It may come, or answer later.
                    ConnectOutcome::Absent
                    | ConnectOutcome::Stale
                    | ConnectOutcome::Busy
                    | ConnectOutcome::Unreachable => Ok(()),
                    _ => Err(EventsError::Connect(failure)),
                };
            }
        };
        match self.subscribe(&mut connection) {
            Ok(response) if response.status == 200 => {
                self.wire = connection.wire.take();
                self.spoke = Instant::now();
                Ok(())
            }
            Ok(mut response) => {
                self.cut();
                // 503: it stands down, and the next one will answer. 401: the credential was replaced in between.
                if matches!(response.status, 401 | 503) {
                    return Ok(());
                }
                let problem = connection.rest_of(&mut response).ok().and_then(|()| response.problem());
                Err(EventsError::Refused { status: response.status, problem })
            }
            Err(error) => {
                self.cut();
                tracing::debug!(%error, "an event stream could not be opened");
                Ok(())
            }
        }
    }

    fn subscribe(&self, connection: &mut Connection) -> Result<Response, RequestError> {
        let mut path = self.path.clone();
        if let Some(topics) = &self.topics {
            let joint = if path.contains('?') { '&' } else { '?' };
            path.push(joint);
            path.push_str("topics=");
            path.push_str(topics);
        }
        let mut request = Request::get(&path).header("Accept", "text/event-stream");
        if let Some(after) = self.reader.after() {
            request = request.header("Last-Event-ID", &after.to_string());
        }
        connection.begin(request)
    }

    /// Waits until the record changes, at most `bound`: a daemon that is back is asked at once.
    fn wait(&mut self, bound: Duration) {
        let directory = self.client.state_dir.path();
        // Without change notification, the time alone ends the wait.
        let watch = platform::Watch::of(directory).ok();
        let [has_changed] = platform::readable([watch.as_ref().map(AsFd::as_fd)], bound);
        if has_changed {
            self.due = Instant::now();
        }
    }
}

/// Returns how long a connect may take within what is left: at least long enough for one that is healthy.
fn client_deadline(client: &Client, left: Duration) -> Duration {
    left.clamp(Duration::from_millis(100), client.deadline.max(Duration::from_millis(100)))
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
    /// What comes is no stream of this protocol.
    #[error(transparent)]
    Stream(StreamError),
}
