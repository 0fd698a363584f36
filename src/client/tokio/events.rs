//! Reads an event stream as the blocking client does, without a thread.

use std::fmt;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use local_daemon_proto::events::{EventId, Item};
use tokio::time::{sleep_until, timeout, timeout_at};

use super::{Client, boxed};
use crate::client::events::{Answered, Course};
use crate::client::request::{DEFAULT_MAX_ANSWER_BYTES, Problem};
use crate::client::{ConnectError, DEFAULT_TIMEOUT, EventsError, RequestError, RequestErrorKind};
use crate::platform;

/// The events of a stream, each once and in order, over cuts, restarts and displacements of the daemon.
///
/// It waits for a daemon that is not there, and starts none. A bearer is sent on no connection that has not proven itself
/// (HS-25).
///
/// ```no_run
/// use local_daemon::client::tokio::Client;
/// use local_daemon::events::Item;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client: Client = local_daemon::Client::new("acme", "acme/1")?.into();
/// let mut events = client.events("/v1/events").topics(["jobs"]);
/// loop {
///     match events.next().await? {
///         Item::Event(event) => println!("{}: {}", event.topic, event.data),
///         Item::Gap { after, .. } => println!("events after {after:?} are lost"),
///         Item::Shutdown => break,
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Events {
    client: Client,
    course: Course,
    stream: Option<Incoming>,
    /// The opening of the next stream. It goes on over calls that are dropped.
    opening: Option<Opening>,
}

type Opening = Pin<Box<dyn Future<Output = Result<Opened, OpenError>> + Send>>;

/// The answer to a request for a stream.
struct Opened {
    status: u16,
    content_type: Option<HeaderValue>,
    stream: Incoming,
}

enum OpenError {
    Connect(ConnectError),
    Request(RequestError),
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("course", &self.course).finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(client: Client, path: &str) -> Self {
        Self { client, course: Course::new(path), stream: None, opening: None }
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

    /// Waits for what the stream says next. It can be called again after each outcome.
    ///
    /// # Cancel safety
    /// A call that is dropped loses nothing: the next one goes on where it was.
    ///
    /// # Errors
    /// [`EventsError`].
    pub async fn next(&mut self) -> Result<Item, EventsError> {
        loop {
            match self.course.next() {
                Ok(Some(item)) => return Ok(item),
                Ok(None) => {}
                Err(error) => {
                    self.stream = None;
                    return Err(error);
                }
            }
            if let Some(stream) = &mut self.stream {
                let frame = timeout_at(self.course.silent_at().into(), stream.frame()).await;
                let Ok(Some(Ok(frame))) = frame else {
                    self.stream = None;
                    self.course.cut();
                    continue;
                };
                if let Some(part) = frame.data_ref() {
                    self.course.push(part);
                }
            } else {
                self.open().await?;
            }
        }
    }

    /// Opens the next stream, once it is time to.
    async fn open(&mut self) -> Result<(), EventsError> {
        if self.opening.is_none() {
            self.wait().await;
        }
        let opening = match &mut self.opening {
            Some(opening) => opening,
            none => {
                none.insert(Box::pin(open(self.client.clone(), self.course.path(), self.course.headers())))
            }
        };
        let opened = opening.await;
        self.opening = None;
        match opened {
            Ok(Opened { status, content_type, stream }) => {
                let content_type = content_type.as_ref().and_then(|value| value.to_str().ok());
                match self.course.answered(status, content_type)? {
                    Answered::Opened => self.stream = Some(stream),
                    Answered::Later => {}
                    Answered::Refused => {
                        return Err(EventsError::Refused { status, problem: problem(stream).await });
                    }
                }
            }
            Err(OpenError::Connect(error)) => return self.course.could_not_connect(error),
            Err(OpenError::Request(error)) => return self.course.could_not_ask(error),
        }
        Ok(())
    }

    /// Waits until the next stream may be opened, or the record changes: a daemon that is back is asked at once.
    async fn wait(&mut self) {
        if self.course.due <= Instant::now() {
            return;
        }
        let due = sleep_until(self.course.due.into());
        // Without change notification, the time alone ends the wait.
        let Ok(watch) = platform::followed(self.client.blocking.directory().path()) else {
            return due.await;
        };
        tokio::select! {
            () = due => {}
            _ = watch.readable() => self.course.due = Instant::now(),
        }
    }
}

async fn open(
    client: Client,
    path: String,
    headers: Vec<(&'static str, String)>,
) -> Result<Opened, OpenError> {
    let connection = client.connect().await.map_err(OpenError::Connect)?;
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| {
        let kind = RequestErrorKind::Invalid(
            "the path or a topic contains a character that must be percent-encoded",
        );
        OpenError::Request(RequestError::new(kind, "GET".to_owned(), Some(error.into())))
    })?;
    let answer = connection.send_any(boxed(request)).await;
    let answer = answer.map_err(|unanswered| OpenError::Request(unanswered.error))?;
    let content_type = answer.headers().get(CONTENT_TYPE).cloned();
    Ok(Opened {
        status: answer.status().as_u16(),
        content_type,
        stream: answer.into_body(),
    })
}

/// Reads the reason of a refusal.
async fn problem(body: Incoming) -> Option<Problem> {
    let body = timeout(DEFAULT_TIMEOUT, Limited::new(body, DEFAULT_MAX_ANSWER_BYTES).collect())
        .await
        .ok()?
        .ok()?;
    serde_json::from_slice(&body.to_bytes()).ok()
}
