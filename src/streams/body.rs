//! A subscriber as the body of an answer: the clock, the heartbeat and the frames that are not in the log.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use std::{fmt, io, mem};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body::{Body, Frame};
use serde::Serialize;
use serde_json::json;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{End, EventId, Hub, Next, Subscriber};

/// How long a stream is silent at most: less than a reader waits for a word (15 s), by what a busy host takes (STR-27).
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// What a stream sends in silence. No empty line follows it: popular clients take a block without data for an event.
const COMMENT: Bytes = Bytes::from_static(b":\n");

/// What a stream sends before everything, at once: a client has the head before anything happens, and comes back soon (STR-2).
/// If its request named no place, the stream names the one where it begins, so that a client that loses it before the first
/// event resumes there (STR-32).
fn opening(begin: Option<EventId>) -> Bytes {
    match begin {
        Some(last) => format!("retry: 500\nid: {last}\n\n").into(),
        None => Bytes::from_static(b"retry: 500\n\n"),
    }
}

/// So much at a time is a burst, in bytes.
const BURST: usize = 4 * 1024;
/// How many turns others get within a burst before more is read.
const TURNS: u32 = 4;

/// What others do meanwhile leaves with the write after it: a burst costs a few writes, and a single event waits for nothing.
type Turns = Pin<Box<dyn Future<Output = ()> + Send>>;

fn turns() -> Turns {
    Box::pin(async {
        for _ in 0..TURNS {
            yield_now().await;
        }
    })
}

/// What a frame says (STR-14).
#[derive(Serialize)]
struct Event<'a, T: ?Sized> {
    topic: &'a str,
    at: String,
    data: &'a T,
}

/// The `data` of a frame.
fn line<T: Serialize + ?Sized>(topic: &str, data: &T) -> serde_json::Result<Vec<u8>> {
    let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let mut line = serde_json::to_vec(&Event { topic, at, data })?;
    // JSON that is passed on as it came may have line breaks between its tokens; inside of a text there are none.
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Ok(line)
}

/// A frame that is not in the log and so has no id (STR-19).
fn aside(topic: &str, data: &serde_json::Value) -> Bytes {
    let line = line(topic, data).expect("a JSON value is JSON");
    [format!("event: {topic}\ndata: ").as_bytes(), &line, b"\n\n"].concat().into()
}

impl Hub {
    /// Appends what has happened now (STR-10, STR-11). Returns `None` if the streams have ended.
    ///
    /// # Errors
    ///
    /// `data` cannot be written as JSON, or the event not [as a line](Self::append_line).
    ///
    /// # Panics
    ///
    /// Panics if there is no such topic.
    pub fn append<T: Serialize + ?Sized>(&self, topic: &str, data: &T) -> io::Result<Option<EventId>> {
        self.append_line(topic, &line(topic, data)?)
    }

    /// Ends every stream: what the log holds, then the last event, then the end of the body (STR-28, STR-29).
    pub fn end(&self, end: End) {
        self.end_with(match end {
            End::Shutdown => aside("shutdown", &json!({})),
            End::Superseded { successor: None } => aside("superseded", &json!({})),
            End::Superseded { successor: Some(successor) } => {
                aside("superseded", &json!({"successor": successor}))
            }
        });
    }
}

impl Subscriber {
    /// Returns the answer to the request that subscribed (STR-1).
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime with its time enabled.
    pub fn into_response(self) -> Response<EventBody> {
        let mut response = Response::new(EventBody::from(self));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// A subscriber as a body. It reads from the log when the connection can take more, so that all that is new leaves
/// with one write and nothing waits here for a reader that has stalled (STR-23).
pub struct EventBody {
    subscriber: Subscriber,
    has_begun: bool,
    /// When something was last said.
    spoke: Instant,
    beat: Pin<Box<Sleep>>,
    /// Whether what was last read was a burst.
    is_burst: bool,
    /// What is waited for before more of it is read.
    turns: Option<Turns>,
}

impl fmt::Debug for EventBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBody").finish_non_exhaustive()
    }
}

impl From<Subscriber> for EventBody {
    fn from(subscriber: Subscriber) -> Self {
        let spoke = Instant::now();
        Self {
            subscriber,
            has_begun: false,
            spoke,
            beat: Box::pin(sleep_until(spoke + HEARTBEAT_INTERVAL)),
            is_burst: false,
            turns: None,
        }
    }
}

impl EventBody {
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !self.has_begun {
            self.has_begun = true;
            return Poll::Ready(Some(opening(self.subscriber.begin())));
        }
        if let Some(turns) = &mut self.turns {
            ready!(turns.as_mut().poll(context));
            self.turns = None;
        }
        if let Poll::Ready(next) = self.subscriber.poll_next(context) {
            self.spoke = Instant::now();
            return Poll::Ready(match next {
                Next::Frames(frames) => {
                    self.is_burst = frames.len() >= BURST;
                    Some(frames)
                }
                Next::Gap { first, after } => {
                    Some(aside("gap", &json!({"first": first.to_string(), "after": after.to_string()})))
                }
                Next::End(frame) => Some(frame),
                Next::Closed => None,
            });
        }
        // The timer is set anew when it has gone off, and not with each event.
        while self.beat.as_mut().poll(context).is_ready() {
            let (now, due) = (Instant::now(), self.spoke + HEARTBEAT_INTERVAL);
            if due <= now {
                self.spoke = now;
                return Poll::Ready(Some(COMMENT));
            }
            self.beat.as_mut().reset(due);
        }
        if mem::take(&mut self.is_burst) {
            self.turns = Some(turns());
        }
        Poll::Pending
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().poll_bytes(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
