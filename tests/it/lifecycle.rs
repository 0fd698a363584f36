//! What a product does with a daemon as a whole.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use local_daemon::Launch;
use local_daemon::client::{Mode, Request, RestartError, Stop, StopError, Upgrade};
use local_daemon::connect::ConnectOutcome;
use serde_json::json;

use crate::launched::{client, launch};
use crate::raw::Raw;

#[test]
fn a_daemon_tells_its_status_and_is_stopped() {
    let home = tempfile::tempdir().unwrap();
    let client = client(&home.path().join("state"));
    assert!(client.stop(&Stop::new()).unwrap().is_none(), "there is none");
    let mut daemon = client.connect_or_spawn(&launch("1")).unwrap();
    let status = daemon.status().unwrap();
    assert_eq!((status.id, status.url), (daemon.registration().id, daemon.registration().url));
    assert_eq!((status.mode, status.streams, status.idle_timeout_seconds), (Mode::Auto, 2, Some(300)));
    assert_eq!((&status.more["jobs"], status.more.contains_key("id")), (&json!(3), false));

    daemon.send(Request::post("/busy")).unwrap();
    match daemon.stop(&Stop::new().if_idle(true)) {
        Err(StopError::InUse { active, .. }) => assert_eq!(active["jobs"], 3),
        other => panic!("{other:?}"),
    }
    let stopped = client.stop(&Stop::new()).unwrap().unwrap();
    assert_eq!((stopped.id, stopped.forced), (status.id, false));
    assert_eq!(client.connect().unwrap_err().outcome, ConnectOutcome::Absent);
}

#[test]
fn a_restart_ends_nothing_unless_another_daemon_can_be_started() {
    let home = tempfile::tempdir().unwrap();
    let client = client(&home.path().join("state"));
    let first = client.restart(&launch("1")).unwrap();
    assert!(matches!(first.before, Ok(None)), "{first:?}");
    let id = first.connection.registration().id;
    let refused = client.restart(&Launch::new("/no/such/daemon")).unwrap_err();
    let RestartError::Connect(error) = &refused else { panic!("{refused:?}") };
    assert_eq!(error.outcome, ConnectOutcome::SpawnFailed);
    let source = std::error::Error::source(error).unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(client.connect().unwrap().registration().id, id, "it goes on");

    let second = client
        .restart_with(|running| launch(&running.unwrap().status().unwrap().version))
        .unwrap();
    assert_eq!(second.before.unwrap().unwrap().id, id);
    assert_ne!(second.connection.registration().id, id);
    client.stop(&Stop::new()).unwrap();
}

#[test]
fn an_upgrade_replaces_an_older_daemon_that_is_idle() {
    let home = tempfile::tempdir().unwrap();
    let client = client(&home.path().join("state"));
    let upgrade = |version: &'static str, wanted: &'static str| {
        client
            .upgrade_or_spawn(&launch(version), move |theirs| theirs.version.as_str() < wanted)
            .unwrap()
    };
    assert_eq!(upgrade("1", "1").upgrade, Upgrade::NotNeeded);
    let first = upgrade("2", "1");
    assert_eq!((&first.upgrade, &*first.connection.handshake().version), (&Upgrade::NotNeeded, "1"));

    let mut busy = first.connection;
    busy.send(Request::post("/busy")).unwrap();
    let found = upgrade("2", "2");
    assert!(matches!(found.upgrade, Upgrade::InUse { .. }), "{found:?}");
    assert_eq!(found.connection.handshake().id, busy.handshake().id);

    busy.stop(&Stop::new()).unwrap();
    upgrade("1", "1");
    let done = upgrade("2", "2");
    assert!(matches!(&done.upgrade, Upgrade::Done { from } if from.version == "1"), "{done:?}");
    assert_eq!(done.connection.handshake().version, "2");
    assert_eq!(upgrade("2", "3").upgrade, Upgrade::StillOlder);
    client.stop(&Stop::new()).unwrap();
}

#[test]
fn clients_that_upgrade_at_the_same_time_converge() {
    let home = tempfile::tempdir().unwrap();
    let client = client(&home.path().join("state"));
    let old = client.connect_or_spawn(&launch("1")).unwrap().registration().id;
    let found: Vec<_> = std::thread::scope(|scope| {
        let upgrade = || client.upgrade_or_spawn(&launch("2"), |theirs| theirs.version == "1").unwrap();
        let upgrades: Vec<_> = (0..4).map(|_| scope.spawn(upgrade)).collect();
        upgrades.into_iter().map(|upgrade| upgrade.join().unwrap()).collect()
    });
    let ids: Vec<_> = found.iter().map(|found| found.connection.registration().id).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && *id != old), "{found:?}");
    assert!(found.iter().any(|found| matches!(found.upgrade, Upgrade::Done { .. })), "{found:?}");
    client.stop(&Stop::new()).unwrap();
}

/// CONV-31: the connection is older than the process that has the daemon's pid now.
#[test]
fn another_process_that_got_the_pid_is_not_killed() {
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    let mut daemon = Raw::start(other.id(), |_, _| false);
    let mut connection = daemon.client().connect().unwrap();
    // Its connection ends, and so does the daemon.
    connection.get("/").unwrap_err();
    daemon.stop();
    let gone = connection.process().map(drop).unwrap_err().to_string();
    let stopped = connection.stop(&Stop::new().force(true).bound(Duration::from_millis(100)));
    let ended = other.try_wait().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(ended.is_none(), "{ended:?}: {stopped:?}");
    assert!(stopped.is_err() && gone.contains("does not prove itself"), "{gone}: {stopped:?}");
}

#[test]
fn a_daemon_with_too_many_connections_is_not_taken_for_one_that_stops() {
    let daemon = Raw::start(std::process::id(), |_, stream| {
        let body = r#"{"code": "overloaded", "detail": "too many"}"#;
        let head = format!("HTTP/1.1 503 Service Unavailable\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).is_ok()
    });
    let stopped = daemon.client().stop(&Stop::new());
    assert!(matches!(&stopped, Err(StopError::Answer(answer)) if answer.status == 503), "{stopped:?}");
}

/// A daemon that was not asked is not one that is not there.
#[test]
fn no_time_to_look_is_no_absence() {
    let home = tempfile::tempdir().unwrap();
    let client = client(&home.path().join("state"));
    client.connect_or_spawn(&launch("1")).unwrap();
    let hurried = client.clone().deadline(Duration::ZERO);
    assert_eq!(hurried.connect().unwrap_err().outcome, ConnectOutcome::Busy);
    let stopped = hurried.stop(&Stop::new());
    assert!(matches!(stopped, Err(StopError::Connect(_))), "{stopped:?}");
    client.stop(&Stop::new()).unwrap().unwrap();
}

/// A holder of the lock that is stopped holds up each call for its bound, and nothing after it.
#[cfg(target_os = "linux")]
#[test]
fn a_lock_that_is_not_given_back_costs_no_threads() {
    let home = tempfile::tempdir().unwrap();
    let client = client(&home.path().join("state")).deadline(Duration::from_millis(50));
    client.directory().create().unwrap();
    let _held = client.directory().lock(Duration::ZERO).unwrap();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    for _ in 0..20 {
        assert!(client.connect_or_spawn(&Launch::new("/no/such/daemon")).is_err());
    }
    // Other tests may run in this process.
    assert!(threads() < before + 15, "{before} -> {}", threads());
}
