//! Status, stop, idleness, private daemons.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::launching::{has_ended, pid};
use crate::support::{Foreground, Home, Output, Raw, assert_fits, chmod, until};

#[test]
fn status_says_what_the_contract_asks_for() {
    let home = Home::new();
    assert_eq!(home.locald(&["start"]).code, 0);
    let seen = home.locald(&["status", "--json"]);
    assert_eq!(seen.code, 0, "{seen:?}");
    let (status, record) = (&seen.json()["status"], home.record().unwrap());
    assert_fits("status.schema.json", status);
    for member in ["id", "pid", "url", "version", "protocol"] {
        assert_eq!(status[member], record[member], "{member}");
    }
    assert_eq!((&status["mode"], &status["state"]), (&json!("manual"), &json!("ready")));
    assert_eq!(status["log_path"].as_str(), home.file("daemon.log").to_str());
    assert!(status["memory_bytes"].as_u64().unwrap() > 100_000);
    assert_eq!((&status["active_requests"], &status["streams"]), (&json!(0), &json!(0)));
    assert!(home.locald(&["status"]).stdout.contains(record["url"].as_str().unwrap()));
}

#[test]
fn connect_starts_a_daemon_that_leaves_when_idle() {
    let home = Home::new();
    assert_eq!(home.locald(&["connect"]).code, 0);
    let status = home.locald(&["status", "--json"]).json()["status"].clone();
    assert_fits("status.schema.json", &status);
    assert_eq!((&status["mode"], &status["idle_timeout_seconds"]), (&json!("auto"), &json!(300)));
    assert!(status["idle_deadline"].is_string());
}

#[test]
fn an_idle_daemon_leaves_but_not_while_somebody_listens() {
    let home = Home::new();
    let mut daemon = home.run_with(&["--mode", "auto"], &[("LOCALD_IDLE_TIMEOUT_SECONDS", "1")]);
    let mut stream = Raw::connect(&home);
    assert!(stream.send("GET /v1/events", "").starts_with("HTTP/1.1 200"));
    let began = std::time::Instant::now();
    until("more than the idle time has passed", || {
        let (code, status) = Raw::connect(&home).ask("GET /v1/status", None);
        assert_eq!((code, &status["streams"], &status["idle_deadline"]), (200, &json!(1), &Value::Null));
        (began.elapsed().as_millis() > 1500).then_some(())
    });
    stream.close();
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(daemon.log().contains("idle"), "{}", daemon.log());
    assert!(home.record().is_none());
}

#[test]
fn stop_waits_until_it_is_gone_and_may_be_repeated() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    let record = home.record().unwrap();
    let process = pid(&home);
    let mut stream = Raw::connect(&home);
    assert!(stream.send("GET /v1/events", "").starts_with("HTTP/1.1 200"));
    let seen = home.locald(&["stop", "--json"]);
    let json = seen.json();
    assert_eq!((seen.code, &json["outcome"], &json["id"]), (0, &json!("stopped"), &record["id"]), "{seen:?}");
    assert_eq!(json["pid"], record["pid"]);
    // Not by the thread that waits for it, which may come later.
    assert!(has_ended(process));
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(home.record().is_none());
    let seen = home.locald(&["stop"]);
    assert_eq!(seen.code, 0, "{seen:?}");
    assert!(seen.stdout.contains("no daemon is running"), "{seen:?}");
}

#[test]
fn force_ends_a_daemon_that_took_the_request_and_hangs() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    // A request whose body never comes keeps the drain open, long enough to freeze the daemon in it.
    let mut slow = Raw::connect(&home);
    slow.begin("POST /v1/events", "Content-Length: 10\r\n");
    until("the request is seen", || {
        (Raw::connect(&home).ask("GET /v1/status", None).1["active_requests"] == 1).then_some(())
    });
    let stop = home.command(&["stop", "--force", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    daemon.wait_for_log("standing down");
    daemon.signal(Signal::STOP);
    let output = stop.wait_with_output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &json["outcome"], &json["forced"]),
        (Some(0), &json!("stopped"), &json!(true))
    );
    assert_eq!(daemon.ended().signal(), Some(9));
}

#[test]
fn shutdown_means_one_daemon_and_may_ask_for_idleness() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    let id = home.record().unwrap()["id"].clone();
    let mut raw = Raw::connect(&home);
    let (status, problem) = raw.ask("POST /v1/shutdown", Some(&json!({"id": "0".repeat(32)})));
    assert_fits("problem.schema.json", &problem);
    assert_eq!((status, &problem["code"], &problem["id"]), (409, &json!("not_this_daemon"), &id));
    let (status, problem) = raw.ask("POST /v1/shutdown", Some(&json!({})));
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")));

    let mut stream = Raw::connect(&home);
    assert!(stream.send("GET /v1/events", "").starts_with("HTTP/1.1 200"));
    let seen = home.locald(&["stop", "--if-idle", "--json"]);
    assert_eq!((seen.code, &seen.json()["outcome"]), (12, &json!("busy")), "{seen:?}");
    let (status, problem) = raw.ask("POST /v1/shutdown", Some(&json!({"id": id, "if_idle": true})));
    assert_fits("problem.schema.json", &problem);
    assert_eq!((status, &problem["code"]), (409, &json!("busy")));
    assert_eq!(problem["active"], json!({"requests": 0, "streams": 1, "sessions": 0, "proxies": 0}));
    stream.close();
    until("the stream is seen to be gone", || {
        (raw.ask("GET /v1/status", None).1["streams"] == 0).then_some(())
    });
    assert!(daemon.is_alive());
    assert_eq!(raw.ask("POST /v1/shutdown", Some(&json!({"id": id, "if_idle": true}))).0, 202);
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn errors_are_problems_and_text_is_for_people() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let mut raw = Raw::connect(&home);
    for (line, status, code) in [
        ("GET /v1/nothing", 404, "not_found"),
        ("GET /page", 405, "method_not_allowed"),
        ("DELETE /v1/status", 405, "method_not_allowed"),
        ("GET /v1/events?topics=gossip", 400, "invalid_request"),
        ("GET /v1/events?after=yesterday", 400, "invalid_request"),
    ] {
        let (seen, problem) = raw.ask(line, None);
        assert_fits("problem.schema.json", &problem);
        assert_eq!((seen, problem["code"].as_str()), (status, Some(code)), "{line}");
    }
    for (line, word) in [("GET /v1/status", "locald/1"), ("GET /v1/nothing", "not_found")] {
        let head = raw.send(line, "Accept: text/plain\r\n");
        assert!(head.to_ascii_lowercase().contains("content-type: text/plain"), "{head}");
        let text = String::from_utf8(raw.body(&head)).unwrap();
        assert!(text.contains(word) && serde_json::from_str::<Value>(&text).is_err(), "{text}");
    }
}

#[test]
fn a_private_daemon_lives_as_long_as_its_input_and_leaves_nothing() {
    let home = Home::new();
    let mut command = home.command(&["connect", "--private", "--json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let json: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&json["outcome"], json["pid"].as_u64()), (&json!("ready"), Some(child.id().into())));
    let private = json["state_dir"].as_str().unwrap().to_owned();
    assert_ne!(private, home.state_dir().to_str().unwrap());
    let mut look = Command::new(assert_cmd::cargo::cargo_bin!("locald"));
    let look = Output::of(look.args(["status", "--json"]).env("LOCALD_STATE_DIR", &private));
    assert_eq!((look.code, &look.json()["status"]["id"]), (0, &json["id"]), "{look:?}");
    assert!(!home.state_dir().exists(), "the shared directory is not touched");
    drop(child.stdin.take());
    let status = until("it ends with its input", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(!fs::exists(&private).unwrap());
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    let home = Home::new();
    for args in [&["status"][..], &["status", "--json"], &["doctor"], &["--help"]] {
        let mut command = home.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked") && output.status.code() != Some(101), "{args:?} {stderr}");
    }
    // Nor is a log whose reader has gone.
    let mut command = home.command(&["run"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    until("it serves all the same", || (home.locald(&["connect", "--no-spawn"]).code == 0).then_some(()));
    let reaped = std::thread::spawn(move || child.wait());
    assert_eq!(home.locald(&["stop"]).code, 0);
    assert_eq!(reaped.join().unwrap().unwrap().code(), Some(0));
}

#[test]
fn a_directory_that_cannot_be_made_is_one_clear_error() {
    let home = Home::new();
    let parent = home.state_dir();
    fs::write(&parent, "in the way").unwrap();
    chmod(&parent, 0o600);
    for args in [&["run"][..], &["start"], &["status"], &["stop"]] {
        let seen = home.locald(args);
        assert_eq!(seen.code, 15, "{args:?} {seen:?}");
        assert!(seen.stderr.contains(parent.to_str().unwrap()), "{args:?} {seen:?}");
    }
}

/// LIFE-35, LIFE-39.
#[test]
fn signals_that_are_sent_by_mistake_leave_no_record_behind() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    let send = |daemon: &Foreground, signal: &str| {
        let pid = daemon.pid().as_raw_nonzero().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success(), "{signal}");
    };
    let named = [
        "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XFSZ", "HUP", "PIPE", "URG",
        "WINCH",
    ];
    let real_time = (34..=64).map(|number| number.to_string());
    for signal in named.into_iter().map(str::to_owned).chain(real_time) {
        send(&daemon, &signal);
        assert_eq!(Raw::connect(&home).ask("GET /v1/status", None).0, 200, "after {signal}");
    }
    for name in ["INT", "TERM", "QUIT", "XCPU"] {
        send(&daemon, name);
        assert_eq!(daemon.ended().code(), Some(0), "after {name}");
        assert!(home.record().is_none(), "after {name}");
        daemon = home.run(&[]);
    }
}
