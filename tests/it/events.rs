//! Streams that are cut, and daemons that are restarted and displaced, read by the crate's own client.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use http_body::{Body, Frame};
use local_daemon::client::{Connection, Events, EventsError};
use local_daemon::daemon::Handle;
use local_daemon::events::{EventId, Item, StreamError};
use local_daemon::streams::{End, EventBody, Hub, Limits, Selection};
use local_daemon::testing::{Home, TestDaemon};
use local_daemon::{Client, Daemon, StateDir};
use tokio::sync::watch;

use crate::raw::Raw;

const EPOCH: u32 = 0xa;
const TOPICS: &[&str] = &["n"];
const BOUND: Duration = Duration::from_secs(30);

/// What the daemons of one test share.
struct World {
    home: Home,
    /// How many numbers there are.
    total: u64,
    /// How many of them the reader has seen; the writer is only a little ahead.
    seen: watch::Sender<u64>,
    /// The last number that was appended.
    appended: Arc<AtomicU64>,
    /// How many streams may still be cut.
    cuts: Arc<AtomicUsize>,
    /// Whether events survive a restart.
    is_kept: bool,
}

impl World {
    fn new(total: u64, cuts: usize, is_kept: bool) -> Self {
        Self {
            home: Home::new("acme", "acme/1").unwrap(),
            total,
            seen: watch::channel(0).0,
            appended: Arc::default(),
            cuts: Arc::new(AtomicUsize::new(cuts)),
            is_kept,
        }
    }

    fn client(&self) -> Client {
        self.home.client()
    }

    /// Starts a daemon, which displaces the one that runs. It counts up to `last`.
    fn start(&self, last: u64) -> TestDaemon {
        let (seen, appended, is_kept) = (self.seen.subscribe(), self.appended.clone(), self.is_kept);
        let cuts = self.cuts.clone();
        let builder = self.home.builder().guard(|guard| guard.stream_routes(["/v1/events"]));
        let serve = async move |daemon: Daemon| {
            let (opening, opened) = watch::channel(None);
            let handle = daemon.handle();
            tokio::spawn(Writer { handle, opening, seen, appended, last, is_kept }.run());
            let router = Router::new().route("/v1/events", get(subscribe)).with_state((opened, cuts));
            daemon.serve(router).await
        };
        self.home.serve(builder, serve).unwrap()
    }
}

/// What appends the numbers of one daemon.
struct Writer {
    handle: Handle,
    opening: watch::Sender<Option<Arc<Hub>>>,
    seen: watch::Receiver<u64>,
    appended: Arc<AtomicU64>,
    last: u64,
    is_kept: bool,
}

impl Writer {
    fn open(&self) -> Option<Hub> {
        let limits = Limits { events: 2_000_000, bytes: 1 << 30 };
        if !self.is_kept {
            return Some(Hub::new(self.handle.id().epoch(), TOPICS, limits));
        }
        // Fails until the predecessor has given it up.
        Hub::open(&self.handle.state_dir().join("events.log"), EPOCH, TOPICS, limits).ok()
    }

    /// Counts on from where the last daemon was, until the streams end.
    async fn run(mut self) {
        let hub = loop {
            match self.open() {
                Some(hub) => break Arc::new(hub),
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        };
        self.opening.send_replace(Some(hub.clone()));
        let ending = {
            let (handle, hub) = (self.handle.clone(), hub.clone());
            let end =
                async move { hub.end(End::of(handle.draining().await, &StateDir::at(handle.state_dir()))) };
            tokio::spawn(end)
        };
        for number in self.appended.load(Ordering::SeqCst) + 1..=self.last {
            if self.seen.wait_for(|seen| number < seen + 2000).await.is_err() {
                break;
            }
            if number % 100 == 0 {
                tokio::task::yield_now().await;
            }
            if !matches!(hub.append("n", &number), Ok(Some(_))) {
                break;
            }
            self.appended.store(number, Ordering::SeqCst);
        }
        ending.await.unwrap();
    }
}

type Shared = (watch::Receiver<Option<Arc<Hub>>>, Arc<AtomicUsize>);

async fn subscribe(
    State((mut opened, cuts)): State<Shared>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> axum::response::Response {
    let hub = match opened.wait_for(Option::is_some).await {
        Ok(hub) => hub.clone().expect("it is there"),
        Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    let last = headers.get_all("last-event-id").iter().map(HeaderValue::as_bytes);
    let Ok(selection) = Selection::parse(query.get("topics").map(String::as_str), None, last) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match hub.subscribe(&selection) {
        Ok(subscriber) => {
            let (head, body) = subscriber.into_response().into_parts();
            let left = cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            // Some in the first frame, some between frames, some in the middle of one.
            let length = left.map_or(usize::MAX, |left| left * 7919 % 16_000);
            Response::from_parts(
                head,
                AxumBody::new(Cut { body, left: length, is_begun: false, is_flushed: false }),
            )
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// A body that breaks after so many bytes.
struct Cut {
    body: EventBody,
    left: usize,
    is_begun: bool,
    is_flushed: bool,
}

impl Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if !self.is_begun {
            self.is_begun = true;
            // The readers of a test come back sooner.
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"retry: 4\n\n")))));
        }
        if self.left == 0 {
            // What was written before leaves first.
            if !std::mem::replace(&mut self.is_flushed, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let Some(Ok(frame)) = frame else { return Poll::Ready(None) };
        let mut data = frame.into_data().expect("a stream has no trailers");
        if data.starts_with(b"retry") {
            data = Bytes::from_static(b":\n\n");
        }
        data.truncate(self.left);
        self.left -= data.len();
        Poll::Ready(Some(Ok::<_, Infallible>(Frame::data(data)).map_err(|never| match never {})))
    }
}

/// What a reader saw.
#[derive(Default, PartialEq, Eq, Debug)]
struct Seen {
    gaps: usize,
    superseded: usize,
    shutdown: usize,
}

/// A reader of the crate.
trait Source {
    fn next(&mut self) -> Result<Item, EventsError>;
    fn last_id(&self) -> Option<EventId>;
}

impl Source for Events {
    fn next(&mut self) -> Result<Item, EventsError> {
        Ok(self.next_within(BOUND)?.expect("something happens in time"))
    }

    fn last_id(&self) -> Option<EventId> {
        self.last_id()
    }
}

/// Opens the blocking reader.
fn blocking(client: &Client, from: EventId) -> Box<dyn Source> {
    let connection = connect(client);
    Box::new(connection.events("/v1/events").after(from))
}

#[cfg(feature = "async")]
struct Asynchronous {
    runtime: tokio::runtime::Runtime,
    events: local_daemon::client::tokio::Events,
}

#[cfg(feature = "async")]
impl Source for Asynchronous {
    /// Drops many a call before it is done.
    fn next(&mut self) -> Result<Item, EventsError> {
        let next = async {
            loop {
                let next = self.events.next();
                if let Ok(item) = tokio::time::timeout(Duration::from_micros(500), next).await {
                    return item;
                }
            }
        };
        let next = async { tokio::time::timeout(BOUND, next).await };
        self.runtime.block_on(next).expect("something happens in time")
    }

    fn last_id(&self) -> Option<EventId> {
        self.events.last_id()
    }
}

/// Opens the asynchronous reader.
#[cfg(feature = "async")]
fn asynchronous(client: &Client, from: EventId) -> Box<dyn Source> {
    let events = local_daemon::client::tokio::Client::from(client.clone()).events("/v1/events").after(from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Box::new(Asynchronous { runtime, events })
}

/// Reads all numbers, each of which must come once and in order.
fn read(mut events: Box<dyn Source>, from: EventId, world: &World) -> Result<Seen, EventsError> {
    let mut seen = Seen::default();
    let (mut number, mut last) = (0, Some(from));
    while number < world.total {
        match events.next()? {
            Item::Event(event) => {
                let next: u64 = event.json().unwrap();
                assert_eq!(next, number + 1, "after {:?}", events.last_id());
                number = next;
                last = Some(event.id);
                world.seen.send_replace(number);
            }
            Item::Gap { first, after } => {
                seen.gaps += 1;
                assert_eq!(
                    (first.seq, after),
                    (1, last),
                    "the gap is between two logs, and names the last id"
                );
            }
            Item::Superseded { .. } => seen.superseded += 1,
            Item::Shutdown => seen.shutdown += 1,
            item => panic!("{item:?}"),
        }
    }
    Ok(seen)
}

fn connect(client: &Client) -> Connection {
    let ends = std::time::Instant::now() + BOUND;
    loop {
        match client.connect() {
            Ok(connection) => return connection,
            Err(failure) => assert!(std::time::Instant::now() < ends, "{failure}"),
        }
    }
}

/// How many numbers: `EVENTS=1000000` for more than a test run has time for.
fn total() -> u64 {
    std::env::var("EVENTS").map_or(30_000, |text| text.parse().expect("EVENTS is a number"))
}

/// Reads all numbers while daemons are stopped and started `generations - 1` times, every `displacing`th time by displacement.
fn read_over(
    world: &World,
    generations: u64,
    displacing: u64,
    open: fn(&Client, EventId) -> Box<dyn Source>,
) -> Seen {
    let due = |generation| generation * world.total / generations;
    // A log in memory loses what no one has read when its daemon ends.
    let last = |generation| if world.is_kept { world.total } else { due(generation) };
    let mut running = world.start(last(1));
    let epoch = if world.is_kept { EPOCH } else { running.handle().id().epoch() };
    std::thread::scope(|scope| {
        let from = EventId { epoch, seq: 0 };
        let reader = scope.spawn(move || read(open(&world.client(), from), from, world));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut progress = world.seen.subscribe();
        for generation in 1..generations {
            let is_due = progress.wait_for(|seen| *seen >= due(generation));
            let waited = async { tokio::time::timeout(BOUND, is_due).await.is_ok() };
            assert!(runtime.block_on(waited), "the reader is at {}", *world.seen.borrow());
            if generation % displacing == 0 {
                let displaced = std::mem::replace(&mut running, world.start(last(generation + 1)));
                displaced.ended().unwrap();
            } else {
                running.stop().unwrap();
                running = world.start(last(generation + 1));
            }
        }
        let seen = reader.join().unwrap().unwrap();
        running.stop().unwrap();
        seen
    })
}

fn sees_each_event_once(open: fn(&Client, EventId) -> Box<dyn Source>) {
    let world = World::new(total(), 200, true);
    // Three displacements, ten restarts.
    let seen = read_over(&world, 14, 4, open);
    assert_eq!(world.cuts.load(Ordering::SeqCst), 0, "all cuts were made");
    assert_eq!(seen.gaps, 0);
    // A stream that was cut did not deliver its last event.
    assert!(seen.superseded <= 3 && seen.shutdown <= 10, "{seen:?}");
    println!("{} numbers, {seen:?}", world.total);
}

#[test]
fn a_reader_sees_each_event_once_over_cuts_restarts_and_displacements() {
    sees_each_event_once(blocking);
}

#[cfg(feature = "async")]
#[test]
fn an_asynchronous_reader_sees_each_event_once_as_well() {
    sees_each_event_once(asynchronous);
}

#[test]
fn a_log_in_memory_has_one_gap_for_each_restart() {
    let world = World::new(4_000, 0, false);
    let seen = read_over(&world, 11, u64::MAX, blocking);
    assert_eq!(seen, Seen { gaps: 10, superseded: 0, shutdown: 10 });
}

#[test]
fn a_path_that_cannot_be_sent_is_an_error() {
    let world = World::new(1, 0, false);
    let running = world.start(1);
    let mut events = connect(&world.client()).events("/v1/events").topics(["a b"]);
    let error = events.next_within(BOUND).unwrap_err();
    assert!(matches!(error, EventsError::Request(_)), "{error}");
    #[cfg(feature = "async")]
    {
        let client = local_daemon::client::tokio::Client::from(world.client());
        let mut events = client.events("/v1/events").topics(["a b"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(events.next()).unwrap_err();
        assert!(matches!(error, EventsError::Request(_)), "{error}");
    }
    running.stop().unwrap();
}

/// STR-1: a path that answers with something else would be asked for ever.
#[test]
fn an_answer_of_another_type_is_an_error() {
    let daemon = Raw::start(std::process::id(), |_, stream| {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(answer).is_ok()
    });
    let error = daemon.client().connect().unwrap().events("/v1/status").next_within(BOUND).unwrap_err();
    assert!(matches!(error, EventsError::Stream(StreamError::Type)), "{error}");
    #[cfg(feature = "async")]
    {
        let client = local_daemon::client::tokio::Client::from(daemon.client());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(client.events("/v1/status").next()).unwrap_err();
        assert!(matches!(error, EventsError::Stream(StreamError::Type)), "{error}");
    }
}

/// The end of a chunk may come after the end of a call.
#[test]
fn calls_that_end_in_the_middle_of_a_frame_lose_nothing() {
    const COUNT: u64 = 30;
    let daemon = Raw::start(std::process::id(), |_, stream| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for seq in 1..=COUNT {
            let data = format!("{{\"topic\": \"n\", \"at\": \"t\", \"data\": {seq}}}");
            let frame = format!("id: 0000000a-{seq}\nevent: n\ndata: {data}\n\n");
            stream.write_all(format!("{:x}\r\n{frame}", frame.len()).as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(b"\r\n").unwrap();
        }
        true
    });
    let mut events = daemon.client().connect().unwrap().events("/v1/events");
    let mut seen = Vec::new();
    while seen.last() != Some(&COUNT) {
        match events.next_within(Duration::from_millis(5)).unwrap() {
            Some(Item::Event(event)) => seen.push(event.id.seq),
            None => {}
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    assert_eq!(seen, (1..=COUNT).collect::<Vec<_>>());
}

#[test]
fn a_bound_holds_while_the_answer_has_not_begun() {
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let begun = std::sync::Mutex::new(begun);
    let daemon = Raw::start(std::process::id(), move |_, stream| {
        let begun = begun.lock().unwrap();
        begun.recv().unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let frame = "id: 0000000a-1\nevent: n\ndata: {\"topic\": \"n\", \"at\": \"t\", \"data\": 1}\n\n";
        stream.write_all(&[head.as_bytes(), frame.as_bytes()].concat()).unwrap();
        // Until the test has ended.
        begun.recv().is_ok()
    });
    let mut events = daemon.client().connect().unwrap().events("/v1/events");
    // Nothing begins before this has returned.
    assert!(events.next_within(Duration::from_millis(50)).unwrap().is_none());
    begin.send(()).unwrap();
    let began = Instant::now();
    // What a program does that has something else to do in between.
    let item = loop {
        if let Some(item) = events.next_within(Duration::ZERO).unwrap() {
            break item;
        }
        assert!(began.elapsed() < BOUND);
    };
    assert!(matches!(&item, Item::Event(event) if event.id.seq == 1), "{item:?}");
}
