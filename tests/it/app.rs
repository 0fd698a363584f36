//! The routes that the crate has for axum, and the streams that the daemon ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::get;
use http_body_util::BodyExt;
use local_daemon::axum::{App, Json};
use local_daemon::claim::Reason;
use local_daemon::client::{Connection, Request, RequestErrorKind, Response};
use local_daemon::connect::ConnectOutcome;
use local_daemon::daemon::{Builder, Error};
use local_daemon::events::Item;
use local_daemon::perimeter::Origins;
use local_daemon::state_directory::FileErrorKind;
use local_daemon::streams::{Hub, Limits, Selection};
use local_daemon::testing::{Home, TestDaemon, TestError};
use local_daemon::{Client, Daemon, StateDir};
use serde_json::{Value, json};

const ORIGIN: &str = "https://app.example";

fn builder(state_dir: &Path) -> Builder {
    let origins = [ORIGIN.parse().unwrap()].into_iter().collect::<Origins>();
    Daemon::builder("acme", "acme/1").version("1.4.0").state_dir(state_dir).origins(origins)
}

/// Runs a test with a connection to a daemon that has these routes, and stops it.
async fn with_app(app: App, test: impl FnOnce(Connection) + Send + 'static) {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let daemon = builder(&state_dir).start().await.unwrap();
    let handle = daemon.handle();
    let serving = tokio::spawn(app.serve(daemon));
    handle.published().await;
    let client = Client::new("acme", "acme/1").unwrap().state_dir(&state_dir);
    tokio::task::spawn_blocking(move || test(client.connect().unwrap())).await.unwrap();
    handle.stop();
    assert_eq!(serving.await.unwrap().unwrap(), Reason::Stopped);
}

/// All that a stream says until it ends.
async fn whole(hub: &Arc<Hub>) -> String {
    let body = hub.subscribe(&Selection::default()).unwrap().into_response().into_body();
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn code(answer: &Response) -> (u16, String) {
    (answer.status, answer.problem().map(|problem| problem.code).unwrap_or_default())
}

async fn echo(Json(body): Json<Value>) -> Json<Value> {
    Json(body)
}

fn app() -> App {
    let merged = Router::new().route("/v1/files/{*path}", get(async || "a file"));
    App::new()
        .get("/v1/jobs/{id}", async || Json(json!({"job": {"n": 1}})))
        .post("/v1/jobs/new", echo)
        .put("/v1/jobs/{id}", echo)
        .post("/v1/large", echo.layer(DefaultBodyLimit::max(200_000)))
        .merge(merged, [("/v1/files/{*path}", Method::GET)])
        .status()
        .shutdown()
}

#[tokio::test]
async fn a_preflight_names_the_methods_of_the_route_that_answers() {
    with_app(app(), |mut daemon| {
        for (path, methods) in [
            ("/v1/jobs/1", Some("HEAD, GET, PUT")),
            // The router prefers what has no parameter.
            ("/v1/jobs/new", Some("POST")),
            ("/v1/files/a/b", Some("HEAD, GET")),
            ("/v1/files", None),
            ("/v1/jobs", None),
        ] {
            let request = Request::new("OPTIONS", path)
                .header("Origin", ORIGIN)
                .header("Access-Control-Request-Method", "GET");
            let answer = daemon.send(request).unwrap();
            assert_eq!(
                (answer.status, answer.header("access-control-allow-methods")),
                (204, methods),
                "{path}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn json_is_taken_within_bounds_and_refused_as_a_problem() {
    with_app(app(), |mut daemon| {
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(100_000));
        for (path, content_type, body, expected) in [
            ("/v1/jobs/new", "application/json; charset=utf-8", "{\"a\":1}", (200, "")),
            ("/v1/jobs/new", "text/plain", "{}", (415, "unsupported_media_type")),
            ("/v1/jobs/new", "application/json", "[1]", (400, "invalid_request")),
            ("/v1/jobs/new", "application/json", "{\"a\":1,\"a\":2}", (400, "invalid_request")),
            ("/v1/jobs/new", "application/json", "{", (400, "invalid_request")),
            ("/v1/jobs/new", "application/json", &*long, (413, "body_too_large")),
            ("/v1/large", "application/json", &*long, (200, "")),
            ("/v1/nothing", "application/json", "{}", (404, "not_found")),
            ("/v1/status", "application/json", "{}", (405, "method_not_allowed")),
        ] {
            let request = Request::post(path).header("Content-Type", content_type).body(body);
            let answer = daemon.send(request).unwrap();
            assert_eq!(code(&answer), (expected.0, expected.1.to_owned()), "{path} {content_type}");
            assert_eq!(answer.header("allow"), (expected.0 == 405).then_some("GET,HEAD"));
        }
        let compressed = Request::post("/v1/jobs/new").header("Content-Encoding", "gzip").body("{}");
        assert_eq!(daemon.send(compressed).unwrap().status, 415);
    })
    .await;
}

#[tokio::test]
async fn people_get_text() {
    with_app(app(), |mut daemon| {
        for (path, text) in [
            ("/v1/jobs/1", "job\n  n  1\n"),
            ("/v1/nothing", "404 Not Found (not_found): There is no such route.\n"),
        ] {
            let answer = daemon.send(Request::get(path).header("Accept", "text/plain")).unwrap();
            assert_eq!(String::from_utf8(answer.body).unwrap(), text);
        }
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_names_its_daemon_and_waits_for_idleness_if_asked() {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let daemon = builder(&state_dir).start().await.unwrap();
    let hub = daemon.events(["jobs"]);
    let (id, handle) = (daemon.handle().id().to_string(), daemon.handle());
    let serving = tokio::spawn(app().events("/v1/events", hub.clone()).serve(daemon));
    handle.published().await;
    let client = Client::new("acme", "acme/1").unwrap().state_dir(&state_dir);
    tokio::task::spawn_blocking(move || {
        let (mut daemon, mut reader) = (client.connect().unwrap(), client.connect().unwrap());
        let stream = reader.open(Request::get("/v1/events")).unwrap();
        let status: Value = daemon.get("/v1/status").unwrap().json().unwrap();
        assert_eq!((&status["streams"], &status["active_requests"]), (&json!(1), &json!(0)));
        assert_eq!(status["listeners"][0]["is_own"], true);
        assert_eq!(status["mode"], "manual");
        let stop = |body: Value| Request::post("/v1/shutdown").json(&body).unwrap();
        let other = daemon.send(stop(json!({"id": "0".repeat(32)}))).unwrap();
        assert_eq!(code(&other), (409, "not_this_daemon".to_owned()));
        let busy = daemon.send(stop(json!({"id": id, "if_idle": true}))).unwrap();
        assert_eq!(code(&busy), (409, "busy".to_owned()));
        assert_eq!(busy.json::<Value>().unwrap()["active"]["streams"], 1);
        assert_eq!(daemon.send(stop(json!({"id": id}))).unwrap().status, 202);
        drop(stream);
    })
    .await
    .unwrap();
    assert_eq!(serving.await.unwrap().unwrap(), Reason::Stopped);
}

#[tokio::test]
async fn a_daemon_that_nothing_uses_ends_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let daemon = builder(&home.path().join("state")).start().await.unwrap();
    let hub = daemon.events([]);
    let (said, ended) =
        tokio::join!(whole(&hub), App::new().idle_timeout(Duration::from_millis(50)).serve(daemon));
    assert_eq!(ended.unwrap(), Reason::Stopped);
    assert!(said.contains("\"reason\":\"idle\"") && said.contains("event: shutdown\n"), "{said}");
}

/// STR-28, STR-29: also of a product without axum.
#[tokio::test]
async fn the_daemon_tells_its_streams_what_becomes_of_it_and_ends_them() {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let daemon = builder(&state_dir).start().await.unwrap();
    let handle = daemon.handle();
    let hub = daemon.events(["jobs"]);
    let own = Arc::new(Hub::new(7, &["jobs"], Limits::default()));
    handle.attach(&own);
    let displace = async {
        handle.published().await;
        let second = builder(&state_dir).start().await.unwrap();
        let second_handle = second.handle();
        let serving = tokio::spawn(second.serve(Router::new()));
        (second_handle, serving)
    };
    let (said, own_said, ended, (second, serving)) =
        tokio::join!(whole(&hub), whole(&own), daemon.serve(Router::new()), displace);
    assert_eq!(ended.unwrap(), Reason::Displaced);
    let events: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(events, ["lifecycle", "lifecycle", "superseded"]);
    assert!(said.contains("\"ready\"") && said.contains("\"reason\":\"displaced\""), "{said}");
    assert!(said.contains(&format!("\"successor\":\"{}\"", second.id())), "{said}");
    assert!(own_said.contains("event: superseded\n") && !own_said.contains("lifecycle"), "{own_said}");
    // One that comes late has ended.
    let late = handle.events(["jobs"]);
    assert!(late.subscribe(&Selection::default()).is_err());
    second.stop();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_daemon_that_may_be_idle_for_ever_has_no_deadline() {
    for timeout in [Duration::from_secs(1 << 40), Duration::MAX] {
        with_app(App::new().status().idle_timeout(timeout), |mut daemon| {
            assert_eq!(daemon.status().unwrap().idle_deadline, None);
        })
        .await;
    }
}

/// Its record is that of a daemon that was killed, which clients replace.
#[tokio::test]
async fn a_daemon_whose_call_is_dropped_answers_no_more() {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let daemon = builder(&state_dir).start().await.unwrap();
    let handle = daemon.handle();
    let client = Client::new("acme", "acme/1").unwrap().state_dir(&state_dir);
    let connect = move || client.connect().map(drop).map_err(|error| error.outcome);
    tokio::select! {
        ended = App::new().idle_timeout(Duration::from_mins(1)).serve(daemon) => panic!("{ended:?}"),
        connected = async {
            handle.published().await;
            tokio::task::spawn_blocking(connect.clone()).await.unwrap()
        } => assert_eq!(connected, Ok(())),
    }
    let seen = tokio::task::spawn_blocking(connect).await.unwrap();
    assert_eq!(seen, Err(ConnectOutcome::Stale));
}

/// LIFE-9: what has arrived when the daemon ends is answered, although nothing was open.
#[tokio::test]
async fn a_request_that_arrives_as_the_daemon_ends_is_refused_and_not_cut() {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let daemon = builder(&state_dir).start().await.unwrap();
    let handle = daemon.handle();
    let serving = tokio::spawn(App::new().get("/x", async || "x").serve(daemon));
    handle.published().await;
    let bearer = StateDir::at(&state_dir).read_credential().unwrap().unwrap().expose();
    let authority = handle.url().authority();
    let request =
        format!("GET /x HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {}\r\n\r\n", *bearer);
    let mut stream = TcpStream::connect(&authority).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut first = stream.try_clone().unwrap();
    tokio::task::spawn_blocking(move || first.read(&mut [0; 4096])).await.unwrap().unwrap();
    // This thread is the daemon's as well, so that the request arrives before any of this is noticed.
    handle.stop();
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = String::new();
    let answer = tokio::task::spawn_blocking(move || stream.read_to_string(&mut said).map(|_| said))
        .await
        .unwrap();
    assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 503 ")), "{answer:?}");
    serving.await.unwrap().unwrap();
}

#[test]
fn a_listed_route_that_is_none_or_clashes_is_noticed_at_once() {
    for path in ["/v1/{a", "/v1/{*rest}/b", "/v1/{other}"] {
        let added = || App::new().get("/v1/{id}", async || "").merge(Router::new(), [(path, Method::GET)]);
        assert!(std::panic::catch_unwind(added).is_err(), "{path}");
    }
}

/// A daemon whose events are kept in a file.
fn keeping(home: &Home, builder: Builder) -> Result<TestDaemon, TestError> {
    home.serve(builder, async |daemon| {
        let handle = daemon.handle();
        let path = handle.state_dir().join("jobs.log");
        let jobs = handle.open_events(path, 7, ["jobs"], Limits::default());
        let add =
            async |State(jobs): State<Arc<Hub>>| jobs.append("jobs", "a job").unwrap().unwrap().to_string();
        App::with_state(jobs.clone())
            .post("/v1/jobs", add)
            .events("/v1/events", jobs)
            .serve(daemon)
            .await
    })
}

#[test]
fn events_in_a_file_go_on_over_displacements_and_restarts() {
    let home = Home::new("acme", "acme/1").unwrap();
    let add = || home.client().connect().unwrap().send(Request::post("/v1/jobs")).unwrap();
    let mut daemon = keeping(&home, home.builder()).unwrap();
    let first = String::from_utf8(add().body).unwrap().parse().unwrap();
    let mut events = home.client().connect().unwrap().events("/v1/events").topics(["jobs"]).after(first);
    let mut said = || events.next_within(Duration::from_secs(10)).unwrap().unwrap();
    for displaces in [true, false, true] {
        daemon = if displaces {
            let next = keeping(&home, home.builder()).unwrap();
            assert_eq!(daemon.ended().unwrap(), Reason::Displaced);
            next
        } else {
            daemon.stop().unwrap();
            keeping(&home, home.builder()).unwrap()
        };
        let added = add();
        let id = loop {
            match said() {
                Item::Event(event) => break event.id.to_string(),
                other => assert!(!matches!(other, Item::Gap { .. }), "{other:?}"),
            }
        };
        assert_eq!((added.status, added.body), (200, id.into_bytes()));
    }
    // One that yields opens no file.
    let yielded = keeping(&home, home.builder().yields(true)).map(drop);
    assert!(matches!(yielded, Err(TestError::Ended(Reason::Yielded))), "{yielded:?}");
    assert_eq!(add().status, 200);
    daemon.stop().unwrap();
}

#[test]
fn a_daemon_whose_events_cannot_be_read_fails() {
    let home = Home::new("acme", "acme/1").unwrap();
    drop(keeping(&home, home.builder()).unwrap());
    StateDir::at(home.state_dir()).replace("jobs.log", b"no log\n\n").unwrap();
    let ended = keeping(&home, home.builder()).unwrap().ended();
    let Err(TestError::Daemon(Error::State(error))) = ended else {
        panic!("{ended:?}")
    };
    assert!(matches!(error.kind, FileErrorKind::Foreign), "{error}");
}

#[test]
fn a_daemon_that_waits_for_its_events_can_be_stopped() {
    let home = Home::new("acme", "acme/1").unwrap();
    drop(keeping(&home, home.builder()).unwrap());
    let path = home.state_dir().join("jobs.log");
    let held = Hub::open(&path, 7, &["lifecycle", "jobs"], Limits::default()).unwrap();
    let daemon = keeping(&home, home.builder()).unwrap();
    let mut client = home.client().connect().unwrap();
    let waiting = client.send(Request::post("/v1/jobs").deadline(Duration::from_millis(200)));
    assert_eq!(waiting.unwrap_err().kind(), RequestErrorKind::TimedOut);
    let begin = Instant::now();
    assert_eq!(daemon.stop().unwrap(), Reason::Stopped);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    drop(held);
}
