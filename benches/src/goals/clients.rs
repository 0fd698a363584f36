//! The crate's clients next to bare ones: what a request costs that is sent on a proven connection, and what an event costs that is
//! read, parsed and followed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use local_daemon::Client;
use local_daemon::client::tokio as asynchronous;
use local_daemon::events::{EventId, Item};
use tokio::runtime::Runtime;

use super::Row;
use super::requests::{Server, apart};
use crate::contestant::Wire;
use crate::measure::{Turns, median};

/// How many requests a round has whose middle one counts.
const EACH: usize = 2000;
const ROUNDS: usize = 15;
/// How many events a stream has.
const EVENTS: u64 = 100_000;
const EPOCH: u32 = 0xa;

pub(super) fn rows() -> Vec<Row> {
    let start = || Server::start("guarded");
    let (requests, readers) = apart(start, |server| (requests(server), readers(server)));
    let mut rows = vec![Row::at_most(
        "warm request of the asynchronous client, p50",
        requests.median(0),
        requests.median(1),
        requests.ratio(0, 1),
        1.05,
        "bare hyper client",
    )];
    for (task, what) in [(0, "blocking"), (1, "asynchronous")] {
        rows.push(rate(&readers, task, &format!("events/s of the {what} reader, 100 bytes each")));
    }
    rows
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn rate(turns: &Turns, task: usize, what: &str) -> Row {
    let rate = |task| format!("{:.0}", EVENTS as f64 / turns.median(task).as_secs_f64());
    Row {
        what: what.to_owned(),
        floor: rate(2),
        ours: rate(task),
        ratio: Some(turns.ratio(2, task)),
        goal: "none: the other one looks for the ends of frames alone".to_owned(),
        is_met: true,
    }
}

fn client(server: &Server) -> Client {
    Client::new("bench", "bench/1").unwrap().state_dir(server.home.path().join("state"))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn requests(server: &Server) -> Turns {
    let (ours, bare) = (runtime(), runtime());
    let connection = asynchronous::Client::from(client(server));
    let connection = ours.block_on(connection.connect()).unwrap();
    let mut sender = bare.block_on(connect(&server.wire));
    let bearer = bearer(server);
    let proven = async || {
        let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
        connection.send(request).await.unwrap()
    };
    let mut plain = async || {
        let request = Request::get("/")
            .header("host", &server.wire.address)
            .header("authorization", &bearer)
            .header("accept", "application/json")
            .body(Empty::<Bytes>::new())
            .unwrap();
        sender.ready().await.unwrap();
        sender.send_request(request).await.unwrap()
    };
    Turns::take(
        ROUNDS,
        vec![
            Box::new(|| ours.block_on(each(&proven))),
            Box::new(|| bare.block_on(each(&mut plain))),
        ],
    )
}

/// The middle one of requests, from sending to the end of the answer.
async fn each(mut ask: impl AsyncFnMut() -> hyper::Response<Incoming>) -> Duration {
    let mut times = Vec::with_capacity(EACH);
    for _ in 0..EACH {
        let began = Instant::now();
        let answer = ask().await;
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        times.push(began.elapsed());
    }
    median(times)
}

async fn connect(wire: &Wire) -> hyper::client::conn::http1::SendRequest<Empty<Bytes>> {
    let stream = tokio::net::TcpStream::connect(&wire.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender
}

fn bearer(server: &Server) -> String {
    let credential = std::fs::read_to_string(server.home.path().join("state/credential")).unwrap();
    format!("Bearer {}", credential.trim_end())
}

fn readers(server: &Server) -> Turns {
    let runtime = runtime();
    let from = EventId { epoch: EPOCH, seq: 0 };
    let is_last = |item: &Item| matches!(item, Item::Event(event) if event.id.seq == EVENTS);
    let blocking = || {
        let mut events = client(server).connect().unwrap().events("/events").after(from);
        timed(|| while !is_last(&events.next().unwrap().unwrap()) {})
    };
    let asynchronous = || {
        let client = asynchronous::Client::from(client(server));
        let mut events = client.events("/events").after(from);
        timed(|| runtime.block_on(async { while !is_last(&events.next().await.unwrap()) {} }))
    };
    let wire = Wire::http(server.wire.address.clone(), "/events", &bearer(server));
    let bare = || timed(|| read_frames(&wire));
    Turns::take(ROUNDS, vec![Box::new(blocking), Box::new(asynchronous), Box::new(bare)])
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

/// Reads as many frames, and looks at nothing but their ends.
fn read_frames(wire: &Wire) {
    let mut stream = TcpStream::connect(&wire.address).unwrap();
    stream.write_all(&wire.request).unwrap();
    let mut part = vec![0; 64 * 1024];
    let (mut ends, mut last) = (0, b' ');
    while ends < EVENTS {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "the stream has {EVENTS} events");
        for &byte in &part[..count] {
            ends += u64::from(byte == b'\n' && last == b'\n');
            last = byte;
        }
    }
}

/// A stream of so many events, which ends after them.
pub(super) async fn events() -> impl IntoResponse {
    static FRAMES: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    let frames = FRAMES.get_or_init(|| {
        let frame = |seq: u64| {
            let id = EventId { epoch: EPOCH, seq };
            format!(
                "id: {id}\nevent: n\ndata: {{\"topic\":\"n\",\"at\":\"2026-01-01T00:00:00Z\",\"data\":{{\"n\":{seq}}}}}\n\n"
            )
        };
        (1..=EVENTS).map(frame).collect::<String>().into()
    });
    ([(CONTENT_TYPE, "text/event-stream")], frames.clone())
}
