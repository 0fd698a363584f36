//! A daemon and a client of the crate, in one process: what a product team's two screenfuls do.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use local_daemon::browser::Purpose;
use local_daemon::claim::Reason;
use local_daemon::client::{ConnectError, Stop};
use local_daemon::connect::ConnectOutcome;
use local_daemon::daemon::{Error, Handle};
use local_daemon::{Client, Daemon};

use crate::launched;

/// One daemon on a thread and runtime of its own.
struct Running {
    handle: Handle,
    thread: Option<JoinHandle<Result<Reason, Error>>>,
}

impl Running {
    fn start(state_dir: &Path) -> Self {
        Self::with(state_dir, "acme/1", false)
    }

    fn with(state_dir: &Path, protocol: &'static str, yields: bool) -> Self {
        let state_dir: PathBuf = state_dir.to_owned();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let builder = Daemon::builder("acme", protocol).version("1.0.0").state_dir(state_dir);
                let daemon = builder.yields(yields).start().await?;
                sender.send(daemon.handle()).unwrap();
                daemon.serve(Router::new().route("/v1/hello", get(async || "hello"))).await
            })
        });
        let handle = receiver.recv_timeout(Duration::from_secs(5)).expect("the daemon started");
        Self { handle, thread: Some(thread) }
    }

    fn reason(&mut self) -> Reason {
        self.thread.take().unwrap().join().unwrap().unwrap()
    }

    fn stop(mut self) -> Reason {
        self.handle.stop();
        self.reason()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.stop();
            let _ = thread.join();
        }
    }
}

fn client(state_dir: &Path) -> Client {
    Client::new("acme", "acme/1")
        .unwrap()
        .state_dir(state_dir)
        .deadline(Duration::from_secs(5))
}

/// Connects as soon as the record names `id`: a daemon serves before it publishes.
fn connect(state_dir: &Path, running: &Running) -> local_daemon::client::Connection {
    let ends = Instant::now() + Duration::from_secs(5);
    loop {
        match client(state_dir).connect() {
            Ok(connection) if connection.handshake().id == running.handle.id() => return connection,
            other => assert!(Instant::now() < ends, "{other:?}"),
        }
    }
}

fn outcome(result: Result<local_daemon::client::Connection, ConnectError>) -> ConnectOutcome {
    match result {
        Ok(_) => panic!("it connected"),
        Err(failure) => failure.outcome,
    }
}

#[test]
fn found_proven_used_and_gone() {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state with spaces");
    assert_eq!(outcome(client(&state_dir).connect()), ConnectOutcome::Absent);
    assert!(!state_dir.exists(), "a connect that does not spawn creates nothing");

    let running = Running::start(&state_dir);
    let mut connection = connect(&state_dir, &running);
    for _ in 0..3 {
        let answer = connection.get("/v1/hello").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]));
    }
    assert_eq!(running.stop(), Reason::Stopped);
    assert_eq!(outcome(client(&state_dir).connect()), ConnectOutcome::Absent);
    let mut left: Vec<_> = std::fs::read_dir(&state_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    // Only a system that tells its world has the life lock.
    left.retain(|name| name != "daemon.alive");
    assert_eq!(left, ["credential"]);
    assert!(connection.get("/v1/hello").is_err());
}

#[test]
fn the_last_writer_wins_and_the_displaced_leaves_at_once() {
    let home = tempfile::tempdir().unwrap();
    let path = &home.path().join("state");
    let mut first = Running::start(path);
    drop(connect(path, &first));
    let second = Running::start(path);
    assert_eq!(first.reason(), Reason::Displaced);
    drop(connect(path, &second));
}

#[test]
fn a_daemon_told_to_yield_leaves_a_ready_one_in_place_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let path = &home.path().join("state");
    let first = Running::with(path, "acme/1", true);
    drop(connect(path, &first));
    let mut second = Running::with(path, "acme/1", true);
    assert_eq!(second.reason(), Reason::Yielded);
    let mut other = first;
    let newer = Running::with(path, "acme/2", true);
    assert_eq!(other.reason(), Reason::Displaced, "another protocol is not yielded to");
    drop(newer);
}

#[test]
fn an_administrator_ends_it_by_removing_the_record() {
    let home = tempfile::tempdir().unwrap();
    let path = &home.path().join("state");
    let mut running = Running::start(path);
    drop(connect(path, &running));
    std::fs::remove_file(path.join("registration.json")).unwrap();
    assert_eq!(running.reason(), Reason::RecordRemoved);
}

#[test]
fn a_record_taken_by_mistake_is_published_again() {
    let home = tempfile::tempdir().unwrap();
    let path = &home.path().join("state");
    let running = Running::start(path);
    drop(connect(path, &running));
    let record = path.join("registration.json");
    let taken = path.join(format!("registration.json.taken-{}-x", "0".repeat(32)));
    std::fs::rename(&record, &taken).unwrap();
    drop(connect(path, &running));
    assert!(!taken.exists(), "its owner removed exactly what held its id");
    assert_eq!(running.stop(), Reason::Stopped);
}

#[test]
fn each_way_not_to_connect_is_told_from_the_others() {
    let home = tempfile::tempdir().unwrap();
    let path = &home.path().join("state");
    let running = Running::start(path);
    drop(connect(path, &running));
    let other = Client::new("acme", "acme/2").unwrap().state_dir(path);
    let ConnectOutcome::Incompatible(Some(theirs)) = outcome(other.connect()) else {
        panic!("another protocol")
    };
    assert_eq!(theirs.to_string(), "acme/1");
    drop(running);

    let write_record = |url: &str| {
        let record = format!(r#"{{"id":"{}","version":"1","url":"{url}","pid":1}}"#, "a".repeat(32));
        let temporary = path.join("a-record");
        std::fs::write(&temporary, record).unwrap();
        std::fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(&temporary, path.join("registration.json")).unwrap();
    };
    // Port 1 is nobody's on a test machine, and no test may take a free port and give it back.
    write_record("http://127.0.0.1:1");
    assert_eq!(outcome(client(path).connect()), ConnectOutcome::Stale);

    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    write_record(&format!("http://{}", mute.local_addr().unwrap()));
    let began = Instant::now();
    assert_eq!(outcome(client(path).deadline(Duration::from_millis(300)).connect()), ConnectOutcome::Busy);
    assert!(began.elapsed() < Duration::from_secs(2), "the caller's deadline ends a probe");

    write_record("http://127.0.0.1:1/path");
    let failure = client(path).connect().unwrap_err();
    assert_eq!(failure.outcome, ConnectOutcome::Absent);
    assert!(failure.detail.contains("url"), "{failure}");

    write_record("http://127.0.0.1:1");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(path.join("registration.json"), open).unwrap();
    let failure = client(path).connect().unwrap_err();
    assert_eq!(failure.outcome, ConnectOutcome::Invalid);
    assert!(failure.detail.contains("registration.json") && failure.detail.contains("0644"), "{failure}");
}

/// A thread that waits for itself. Within `spawn_blocking` the same call is in order.
#[test]
fn a_call_that_blocks_the_daemon_says_so() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = Daemon::builder("acme", "acme/1").state_dir(path.clone()).stop_on_signals(false);
        let daemon = builder.start().await.unwrap();
        let handle = daemon.handle();
        let serving = tokio::spawn(daemon.serve(Router::new()));
        handle.published().await;
        let blocked = client(&path).deadline(Duration::from_millis(100)).connect().unwrap_err();
        assert_eq!(blocked.outcome, ConnectOutcome::Busy);
        assert!(blocked.to_string().contains("asynchronous runtime"), "{blocked}");
        let connecting = tokio::task::spawn_blocking(move || client(&path).connect());
        assert_eq!(connecting.await.unwrap().unwrap().handshake().id, handle.id());
        handle.stop();
        serving.await.unwrap().unwrap();
    });
}

#[test]
fn no_bound_is_too_long() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state");
    assert_eq!(outcome(client(&path).deadline(Duration::MAX).connect()), ConnectOutcome::Absent);
    let running = Running::start(&path);
    let mut connection = connect(&path, &running);
    let request = local_daemon::client::Request::get("/v1/hello").deadline(Duration::MAX);
    assert_eq!(connection.send(request).unwrap().status, 200);
    let url = connection.registration().url;
    assert!(!local_daemon::client::is_refused(url, Duration::MAX));
    drop(client(&path).deadline(Duration::MAX).connect().unwrap());
    drop(running);
    // The others have no hold on a process.
    if cfg!(all(target_os = "linux", not(local_daemon_portable))) {
        let process = client(&path).connect_or_spawn(&launched::launch("1")).unwrap().process().unwrap();
        let waiting = std::thread::spawn(move || process.wait(Duration::MAX));
        client(&path).stop(&Stop::new()).unwrap();
        assert!(waiting.join().unwrap().unwrap(), "it has ended");
    }
}

#[tokio::test]
async fn what_is_printed_of_a_daemon_holds_no_secret() {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let builder = Daemon::builder("acme", "acme/1").state_dir(&state_dir).page_tokens(Arc::default());
    let before = format!("{builder:?}");
    let daemon = builder.start().await.unwrap();
    let handle = daemon.handle();
    let ticket = handle.tickets().issue(Purpose::Handoff { origin: String::new() }, Instant::now());
    let printed = format!("{before} {daemon:?} {handle:?}");
    let credential = std::fs::read_to_string(state_dir.join("credential")).unwrap();
    for secret in [credential.trim(), ticket.secret.expose()] {
        assert!(!printed.contains(secret), "{printed}");
    }
    if let Some(page_host) = handle.page_host() {
        assert!(!printed.contains(page_host.expose()), "{printed}");
    }
}
