//! The daemons, fakes and squatters that the crate has for a product's tests.

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Response, StatusCode};
use local_daemon::axum::App;
use local_daemon::claim::Reason;
use local_daemon::client::{Request, Stop, StopError};
use local_daemon::connect::ConnectOutcome;
use local_daemon::testing::{Home, TestDaemon, TestError};
use local_daemon::{Daemon, StateDir};

fn home() -> Home {
    Home::new("acme", "acme/1").unwrap()
}

fn router(text: &'static str) -> Router {
    Router::new().route("/text", get(async move || text))
}

#[test]
fn daemons_of_several_homes_run_in_one_process() {
    let homes = [home(), home()];
    let daemons = homes.each_ref().map(|home| home.start(router("hello")).unwrap());
    for (home, daemon) in homes.iter().zip(&daemons) {
        let mut connection = home.client().connect().unwrap();
        assert_eq!(connection.registration().id, daemon.handle().id());
        assert_eq!(connection.get("/text").unwrap().body, b"hello");
    }
    assert_eq!(daemons.map(|daemon| daemon.stop().unwrap()), [Reason::Stopped; 2]);
    let paths = homes.map(|home| home.state_dir().to_owned());
    assert!(paths.iter().all(|path| !path.parent().unwrap().exists()), "{paths:?}");
}

#[test]
fn a_home_has_one_daemon_after_the_other() {
    let home = home();
    let first = home.start(router("first")).unwrap();
    let second = home.start(router("second")).unwrap();
    assert_eq!(first.ended().unwrap(), Reason::Displaced);
    drop(second);
    assert_eq!(home.client().connect().unwrap_err().outcome, ConnectOutcome::Absent);
    let _third = home.start(router("third")).unwrap();
    assert_eq!(home.client().connect().unwrap().get("/text").unwrap().body, b"third");
}

#[test]
fn a_daemon_that_cannot_start_is_an_error() {
    let home = home();
    std::fs::write(home.state_dir(), "a file").unwrap();
    let failed = home.start(Router::new());
    assert!(matches!(failed, Err(TestError::Daemon(_))), "{failed:?}");
    assert!(matches!(Home::new("../acme", "acme/1"), Err(TestError::Setup(_))));
}

fn stoppable(home: &Home) -> TestDaemon {
    // The product's own builder, which names no state directory.
    let builder = Daemon::builder("acme", "acme/1").version("1.4.0");
    home.serve(builder, async |daemon| App::new().shutdown().serve(daemon).await).unwrap()
}

#[test]
fn a_client_stops_a_daemon_of_its_own_process_without_waiting_for_that() {
    let home = home();
    let daemon = stoppable(&home);
    let begin = Instant::now();
    let stopped = home.client().stop(&Stop::new()).unwrap().unwrap();
    assert_eq!(stopped.id, daemon.handle().id());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(daemon.ended().unwrap(), Reason::Stopped);
}

#[test]
fn a_forced_stop_does_not_end_the_process_of_the_client() {
    let home = home();
    let _fake = home.fake(|_| Response::builder().status(202).body(Bytes::new()).unwrap()).unwrap();
    let stop = Stop::new().bound(Duration::ZERO).force(true);
    let stopped = home.client().stop(&stop);
    assert!(matches!(stopped, Err(StopError::Kill { .. })), "{stopped:?}");
}

#[test]
fn a_fake_daemon_answers_what_the_test_says_and_keeps_what_it_was_asked() {
    let home = home();
    let fake = home
        .fake(|request| {
            let mut answer = Response::new(request.body().clone());
            *answer.status_mut() = StatusCode::ACCEPTED;
            answer
        })
        .unwrap();
    let mut connection = home.client().connect().unwrap();
    let answer = connection.send(Request::put("/v1/jobs?x=1").header("X-Acme", "7").body("text")).unwrap();
    assert_eq!((answer.status, &*answer.body), (202, &b"text"[..]));
    let [request] = &fake.requests()[..] else { panic!("{:?}", fake.requests()) };
    assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("PUT", "/v1/jobs?x=1"));
    assert_eq!(request.headers()["x-acme"], "7");
}

#[test]
fn a_fake_daemon_can_speak_another_protocol() {
    let home = home();
    let _fake = home.fake_of("acme/2", |_| Response::default()).unwrap();
    let outcome = home.client().connect().unwrap_err().outcome;
    assert!(matches!(outcome, ConnectOutcome::Incompatible(Some(theirs)) if theirs.to_string() == "acme/2"));
}

#[test]
fn a_squatter_is_foreign_and_hears_no_credential() {
    let home = home();
    let squatter = home.squatter().unwrap();
    assert_eq!(home.client().connect().unwrap_err().outcome, ConnectOutcome::Foreign);
    let credential = StateDir::at(home.state_dir()).read_credential().unwrap().unwrap();
    let received = String::from_utf8(squatter.received()).unwrap();
    assert!(received.starts_with("GET ") && !received.contains(&**credential.expose()), "{received}");
}

#[test]
fn a_mute_squatter_is_busy() {
    let home = home();
    let squatter = home.mute_squatter().unwrap();
    assert_eq!(home.client().connect().unwrap_err().outcome, ConnectOutcome::Busy);
    assert!(!squatter.received().is_empty());
}
