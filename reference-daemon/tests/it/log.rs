//! The log: bounded, and without repetitions.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use crate::launching::{pid, under};
use crate::support::{Home, Output, Raw, chmod, mode, names, until};

const MOST: u64 = 5 * 1024 * 1024;
/// More than is written between two checks of the log.
const BETWEEN: u64 = 1024 * 1024;

/// Starts a detached daemon that logs each request.
fn start() -> Home {
    let home = Home::new();
    let seen = Output::of(home.command(&["start"]).env("LOCALD_LOG", "debug"));
    assert_eq!(seen.code, 0, "{seen:?}");
    home
}

/// Adds more than this many bytes to the log, and lets the daemon add so many lines to each part of them that it checks the log.
fn fill(home: &Home, bytes: usize) {
    const PART: usize = 512 * 1024;
    const LINES: usize = 600;
    let mut raw = Raw::connect(home);
    let stderr = format!("/proc/{}/fd/2", pid(home).as_raw_nonzero());
    for _ in 0..bytes.div_ceil(PART) {
        let mut log = fs::OpenOptions::new().append(true).open(&stderr).unwrap();
        log.write_all(&vec![b'.'; PART]).unwrap();
        for _ in 0..LINES {
            assert_eq!(raw.ask("GET /nowhere", None).0, 404);
        }
    }
}

fn logs(home: &Home) -> Vec<(String, u64)> {
    let names = names(home.state_dir()).into_iter().filter(|name| name.starts_with("daemon.log"));
    names.map(|name| (name.clone(), fs::metadata(home.file(&name)).unwrap().len())).collect()
}

/// LIFE-38.
#[test]
fn it_is_rotated_while_the_daemon_runs() {
    let home = start();
    fill(&home, usize::try_from(2 * MOST + 4 * BETWEEN).unwrap());
    let logs = logs(&home);
    let names: Vec<&str> = logs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["daemon.log", "daemon.log.1", "daemon.log.2"]);
    for (name, length) in &logs {
        assert!(*length <= MOST + BETWEEN, "{logs:?}");
        assert_eq!(mode(home.file(name)), 0o600);
    }
    // What the daemon writes to standard error otherwise goes to the same file.
    let stderr = format!("/proc/{}/fd/2", pid(&home).as_raw_nonzero());
    assert_eq!(fs::read_link(&stderr).unwrap(), home.file("daemon.log"));
    assert!(fs::read_to_string(home.file("daemon.log")).unwrap().contains("answered"));
    assert_eq!(home.locald(&["stop"]).code, 0);
    assert!(fs::read_to_string(home.file("daemon.log")).unwrap().contains("standing down"));
}

#[test]
fn a_link_in_its_place_is_never_followed() {
    let home = start();
    let elsewhere = home.file("elsewhere");
    fs::write(&elsewhere, "").unwrap();
    fs::remove_file(home.file("daemon.log")).unwrap();
    symlink(&elsewhere, home.file("daemon.log")).unwrap();
    fill(&home, usize::try_from(MOST + BETWEEN).unwrap());
    assert_eq!(fs::read(&elsewhere).unwrap(), b"");
    fs::remove_file(home.file("daemon.log")).unwrap();
    until("it is there again", || home.file("daemon.log").exists().then_some(()));
    assert_eq!(mode(home.file("daemon.log")), 0o600);
}

#[test]
fn one_that_was_removed_does_not_come_back() {
    let home = start();
    fs::remove_file(home.file("daemon.log")).unwrap();
    fill(&home, 256 * 1024);
    assert!(!home.file("daemon.log").exists(), "a removal of the whole directory would fail");
}

#[test]
fn a_foreground_daemon_rotates_no_log() {
    let home = start();
    assert_eq!(home.locald(&["stop"]).code, 0);
    fs::write(home.file("daemon.log"), vec![b'x'; 6 * 1024 * 1024]).unwrap();
    let _daemon = home.run_with(&[], &[("LOCALD_LOG", "debug")]);
    fill(&home, 256 * 1024);
    assert_eq!(logs(&home), [("daemon.log".to_owned(), 6 * 1024 * 1024)]);
}

/// LIFE-40: of a daemon that is out of descriptors.
#[test]
fn failures_to_accept_are_logged_once() {
    const LINE: &str = "a connection could not be accepted";
    let home = Home::new();
    let start = home.command(&["start"]);
    let seen = Output::of(&mut under(&["prlimit", "--nofile=40:40"], &start));
    assert_eq!(seen.code, 0, "{seen:?}");
    let address = Raw::connect(&home).authority().to_owned();
    let log = || fs::read_to_string(home.file("daemon.log")).unwrap();
    let mut connections = Vec::new();
    until("the daemon is out of descriptors", || {
        connections.push(TcpStream::connect(&address).unwrap());
        log().contains(LINE).then_some(())
    });
    // It tries again every 50 ms, and sleeps in between.
    let sleeps = || {
        let status = fs::read_to_string(format!("/proc/{}/status", pid(&home).as_raw_nonzero())).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = sleeps();
    until("ten more tries", || (sleeps() >= before + 10).then_some(()));
    assert_eq!(log().matches(LINE).count(), 1, "{}", log());
    drop(connections);
    assert_eq!(home.locald(&["stop"]).code, 0);
}

/// LIFE-40.
#[test]
fn a_lasting_condition_is_logged_when_it_begins_and_when_it_ends() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    for (name, line) in [
        ("registration.json", "the registration cannot be used"),
        ("credential", "the credential on disk is refused"),
    ] {
        chmod(home.file(name), 0o644);
        daemon.wait_for_log(line);
        for _ in 0..5 {
            // Each change in the directory makes it look again.
            fs::write(home.file("something"), "").unwrap();
            let mut stream = TcpStream::connect(Raw::connect(&home).authority()).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            thread::sleep(Duration::from_millis(100));
        }
        chmod(home.file(name), 0o600);
        daemon.wait_for_log(&format!("no longer: {line}"));
        assert_eq!(daemon.log().matches(line).count(), 2, "{}", daemon.log());
    }
}
