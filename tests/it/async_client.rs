//! The asynchronous client.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body as AxumBody;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use local_daemon::client::tokio::{Client, Connection, Deadline};
use local_daemon::client::{RequestErrorKind, Stop};
use local_daemon::connect::ConnectOutcome;
use local_daemon::daemon::Handle;
use local_daemon::{Daemon, StateDir};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tower_service::Service as _;

use crate::launched;
use crate::raw::Raw;

fn client(state_dir: &Path) -> Client {
    launched::client(state_dir).into()
}

fn get_of(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).unwrap()
}

/// Sends back each part of the body as it comes.
async fn mirror(body: AxumBody) -> AxumBody {
    AxumBody::new(body.map_frame(|frame| frame))
}

/// A daemon on the runtime of the test.
struct Running {
    handle: Handle,
    serving: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(state_dir: PathBuf) -> Self {
        let builder = Daemon::builder("acme", "acme/1").state_dir(state_dir).stop_on_signals(false);
        let daemon = builder.start().await.unwrap();
        let handle = daemon.handle();
        let router = Router::new()
            .route("/hello", get(async || "hello"))
            .route("/large", get(async || "x".repeat(100_000)))
            .route("/never", get(async || std::future::pending::<()>().await))
            .route("/mirror", post(mirror))
            .route("/swallow", post(async |body: Bytes| body.len().to_string()));
        let serving = tokio::spawn(async { assert!(daemon.serve(router).await.is_ok()) });
        handle.published().await;
        Self { handle, serving }
    }

    async fn stop(self) {
        self.handle.stop();
        self.serving.await.unwrap();
    }
}

async fn text(connection: &Connection, path: &str) -> String {
    let answer = connection.send(get_of(path)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

/// A body whose frames come over a channel.
struct Channel(mpsc::Receiver<Bytes>);

impl Body for Channel {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

#[tokio::test]
async fn many_connects_converge_on_one_daemon() {
    let home = tempfile::tempdir().unwrap();
    let client = client(&home.path().join("state"));
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.connect_or_spawn(&launched::launch("1")).await.unwrap() })
        })
        .collect();
    let mut ids = Vec::new();
    for call in calls {
        let connection = call.await.unwrap();
        assert_eq!(text(&connection, "/v1/hello").await, "hello");
        ids.push(connection.registration().id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    stop(home.path().join("state")).await;
}

async fn stop(state_dir: PathBuf) {
    client(&state_dir).blocking(|client| client.stop(&Stop::new())).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_connect_leaves_no_lock_and_no_half_start() {
    for millis in [0, 1, 3, 10, 30, 100] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        let client = client(&path);
        let launch = launched::launch("1");
        let cancelled = timeout(Duration::from_millis(millis), client.connect_or_spawn(&launch)).await;
        let connection = client.connect_or_spawn(&launch).await.unwrap();
        if let Ok(Ok(before)) = cancelled {
            assert_eq!(before.registration().id, connection.registration().id);
        }
        let began = Instant::now();
        while StateDir::at(&path).lock(Duration::ZERO).is_none() {
            assert!(began.elapsed() < Duration::from_secs(3), "{millis} ms: the lock was not given back");
            sleep(Duration::from_millis(10)).await;
        }
        stop(path).await;
    }
}

#[test]
fn a_connect_that_is_cancelled_at_the_lock_starts_nothing() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state");
    let directory = StateDir::at(&path);
    directory.create().unwrap();
    let lock = directory.lock(Duration::ZERO).unwrap();
    let client = client(&path);
    let launch = launched::launch("1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connecting = async { timeout(Duration::from_millis(200), client.connect_or_spawn(&launch)).await };
    assert!(runtime.block_on(connecting).is_err());
    drop(lock);
    // Waits for the thread on which the call ran.
    drop(runtime);
    assert!(!directory.file("daemon.log").exists() && !directory.file("registration.json").exists());
    assert!(directory.lock(Duration::ZERO).is_some());
}

#[tokio::test]
async fn requests_use_proven_connections_again() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state");
    let daemon = Running::start(path.clone()).await;
    let client = client(&path);
    let connection = client.connect().await.unwrap();
    for _ in 0..50 {
        assert_eq!(text(&connection, "/large").await.len(), 100_000);
        assert_eq!(text(&connection, "http://acme.invalid/hello").await, "hello");
    }
    let deadline = Request::get("/never").extension(Deadline(Duration::from_millis(100)));
    let error = connection.send(deadline.body(Empty::<Bytes>::new()).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), RequestErrorKind::TimedOut, "{error}");
    let answers = futures_of(&connection, 20).await;
    assert!(answers.iter().all(|answer| answer == "hello"), "{answers:?}");
    let error = connection
        .send(Request::connect("a:1").body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), RequestErrorKind::Invalid(_)), "{error}");
    daemon.stop().await;
}

#[tokio::test]
async fn streams_keep_no_connection_from_other_requests() {
    let daemon = Raw::start(std::process::id(), |request, stream| {
        let is_stream = request.starts_with("GET /stream ");
        let head = if is_stream { "" } else { "Content-Length: 0\r\n" };
        let answer = format!("HTTP/1.1 200 OK\r\nX-Peer: {}\r\n{head}\r\n", stream.peer_addr().unwrap());
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let connection = Client::from(daemon.client()).connect().await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(connection.send(get_of("/stream")).await.unwrap());
    }
    let mut peers = BTreeSet::new();
    for _ in 0..10 {
        let answer = connection.send(get_of("/")).await.unwrap();
        peers.insert(answer.headers()["x-peer"].clone().as_bytes().to_vec());
        answer.into_body().collect().await.unwrap();
    }
    assert!(peers.len() <= 2, "{} connections", peers.len());
}

/// The answers to so many requests at the same time.
async fn futures_of(connection: &Connection, count: usize) -> Vec<String> {
    let requests: Vec<_> = (0..count)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { text(&connection, "/hello").await })
        })
        .collect();
    let mut answers = Vec::new();
    for request in requests {
        answers.push(request.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn a_restart_between_requests_is_noticed_before_anything_is_sent() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state");
    let client = client(&path);
    let first = Running::start(path.clone()).await;
    let mut service = client.service();
    let connection = client.connect().await.unwrap();
    assert_eq!(text(&connection, "/hello").await, "hello");
    assert_eq!(service.call(get_of("/hello")).await.unwrap().status(), StatusCode::OK);
    first.stop().await;
    let second = Running::start(path).await;
    let error = connection.send(get_of("/hello")).await.unwrap_err();
    assert_eq!(error.kind(), RequestErrorKind::Gone, "{error}");
    // The service finds the next one, and sends the whole body.
    let request = Request::post("http://any/swallow").body(Full::new(Bytes::from_static(b"12345"))).unwrap();
    let answer = service.call(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "5");
    second.stop().await;
}

#[tokio::test]
async fn an_early_answer_comes_while_the_body_still_streams() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state");
    let daemon = Running::start(path.clone()).await;
    let connection = client(&path).connect().await.unwrap();
    let (sender, receiver) = mpsc::channel(1);
    let feeding = tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        while sender.send(piece.clone()).await.is_ok() {}
    });
    let answer = connection.send(Request::post("/swallow").body(Channel(receiver)).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    drop(answer);
    timeout(Duration::from_secs(10), feeding).await.expect("the body is dropped").unwrap();
    assert_eq!(text(&connection, "/hello").await, "hello");
    daemon.stop().await;
}

/// A body that cannot be read.
struct Broken;

impl Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(Err(io::Error::other("the disk is gone"))))
    }
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state");
    let daemon = Running::start(path.clone()).await;
    let connection = client(&path).connect().await.unwrap();
    let (sender, receiver) = mpsc::channel(1);
    let mut answer =
        connection.send(Request::post("/mirror").body(Channel(receiver)).unwrap()).await.unwrap();
    for number in 0..20 {
        let sent = Bytes::from(format!("part {number}"));
        sender.send(sent.clone()).await.unwrap();
        let part = timeout(Duration::from_secs(5), answer.body_mut().frame())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(part.into_data().unwrap(), sent);
    }
    drop(sender);
    assert!(answer.body_mut().frame().await.is_none());

    let error = connection.send(Request::post("/swallow").body(Broken).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), RequestErrorKind::Body, "{error}");
    assert!(format!("{error:?}").contains("the disk is gone"), "{error:?}");
    daemon.stop().await;
}

/// Answers everything, and keeps what it was sent.
fn squat(listener: TcpListener) -> Arc<Mutex<Vec<u8>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, hears) = (stream.unwrap(), hears.clone());
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut part) {
                    hears.lock().unwrap().extend_from_slice(&part[..count]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
                }
            });
        }
    });
    heard
}

#[tokio::test]
async fn a_squatter_never_sees_the_bearer() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state");
    let client = client(&path);
    let daemon = Running::start(path.clone()).await;
    let (connection, mut service) = (client.connect().await.unwrap(), client.service());
    let mut events = connection.events("/hello");
    service.call(get_of("/hello")).await.unwrap();
    let record = std::fs::read(path.join("registration.json")).unwrap();
    let port = daemon.handle.url().port();
    daemon.stop().await;
    // The other side of its connections may still hold the port for a moment.
    let began = Instant::now();
    let listener = loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => break listener,
            Err(error) => assert!(began.elapsed() < Duration::from_mins(1), "{error}"),
        }
        sleep(Duration::from_millis(10)).await;
    };
    let heard = squat(listener);
    StateDir::at(&path).replace("registration.json", &record).unwrap();

    let error = connection.send(get_of("/hello")).await.unwrap_err();
    assert_eq!(error.kind(), RequestErrorKind::Gone, "{error}");
    assert!(service.call(get_of("/hello")).await.is_err());
    assert_eq!(client.connect().await.unwrap_err().outcome, ConnectOutcome::Foreign);
    assert!(events.next().await.is_err());
    let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    let secret = std::fs::read_to_string(path.join("credential")).unwrap();
    assert!(heard.contains("Local-Daemon-Proof") && !heard.contains("Bearer"), "{heard}");
    assert!(!heard.contains(secret.trim()), "{heard}");
}
