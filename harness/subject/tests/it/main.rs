//! The degenerate subjects do what they are named for, and no more.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A running subject, which ends with the test.
struct Subject(Child);

impl Subject {
    fn start(arguments: &[&str]) -> Self {
        Self(Command::new(env!("CARGO_BIN_EXE_daemonspec-subject")).args(arguments).spawn().unwrap())
    }

    /// Returns its exit status, if it ends within `bound`.
    fn exit_status(&mut self, bound: Duration) -> Option<ExitStatus> {
        wait(bound, || self.0.try_wait().unwrap())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait<T>(bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + bound;
    loop {
        let found = look();
        if found.is_some() || Instant::now() > until {
            return found;
        }
        sleep(Duration::from_millis(5));
    }
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn one_exits_and_one_hangs() {
    for (arguments, status) in [(&["exit"][..], 0), (&["exit", "3"], 3), (&["answer"], 2)] {
        let exited = Subject::start(arguments).exit_status(SOON).expect("it exits");
        assert_eq!(exited.code(), Some(status), "{arguments:?}");
    }
    assert_eq!(Subject::start(&["hang"]).exit_status(Duration::from_millis(50)), None);
}

#[test]
fn two_answer_everything_alike_behind_files_that_look_right() {
    for status in ["200", "401"] {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        let _subject = Subject::start(&["answer", status, "--state-dir", directory.to_str().unwrap()]);
        let record = wait(SOON, || fs::read(directory.join("registration.json")).ok()).expect("it publishes");
        let record: Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(fs::read(directory.join("credential")).unwrap().len(), 44);
        for name in ["", "registration.json", "credential"] {
            let mode = directory.join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name} is for its owner alone");
        }
        let authority = record["url"].as_str().unwrap().strip_prefix("http://").unwrap();
        for path in ["/.well-known/local-daemon", "/anything"] {
            let mut stream = TcpStream::connect(authority).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\n\r\n").unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            assert_eq!(line.split(' ').nth(1), Some(status), "{line}");
        }
    }
}
