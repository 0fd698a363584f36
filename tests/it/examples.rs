//! The examples that nothing else runs, as processes of their own.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use local_daemon::{Client, Daemon};

const BOUND: Duration = Duration::from_secs(10);

/// A running example, which ends with its test.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(name: &str, state_dir: &Path) -> Self {
        let mut child = Command::new(build(name))
            .env("ACME_STATE_DIR", state_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("it says something").unwrap()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds an example in the directory of this test, and returns its path.
fn build(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--package",
        "local-daemon",
        "--example",
        name,
        "--target-dir",
    ]);
    build.arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    profile.join("examples").join(name)
}

/// Sends a GET and returns the status.
fn get(address: &str, path: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_guard_alone_judges_before_the_routes() {
    let home = tempfile::tempdir().unwrap();
    let mut server = Running::start("guard", home.path());
    let line = server.line();
    let (address, credential) = line.split_once(' ').unwrap();
    let bearer = format!("Authorization: Bearer {credential}\r\n");
    assert_eq!(get(address, "/v1/hello", &bearer), 200);
    assert_eq!(get(address, "/v1/nothing", &bearer), 404);
    for path in ["/v1/hello", "/v1/nothing"] {
        assert_eq!(get(address, path, ""), 401);
        assert_eq!(get(address, path, &format!("{bearer}Origin: https://app.example\r\n")), 403);
    }
    assert!(std::fs::read_dir(home.path()).unwrap().next().is_none(), "no record and no credential");
}

#[test]
fn a_shell_goes_on_after_its_publication_was_displaced() {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let mut shell = Running::start("shape_a", &state_dir);
    let client = Client::new("acme", "acme/1").unwrap().state_dir(&state_dir);
    let ends = Instant::now() + BOUND;
    let mut found = loop {
        match client.connect() {
            Ok(found) => break found,
            Err(error) => assert!(Instant::now() < ends, "{error}"),
        }
    };
    assert_eq!(found.get("/v1/hello").unwrap().body, b"hello");
    shell.say("/v1/hello");
    assert_eq!(shell.line(), "hello");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let daemon = Daemon::builder("acme", "acme/1").state_dir(&state_dir).start().await.unwrap();
        let handle = daemon.handle();
        let serving = tokio::spawn(daemon.serve(axum::Router::new()));
        handle.published().await;
        assert_eq!(shell.line(), "published no more: displaced");
        handle.stop();
        serving.await.unwrap().unwrap();
    });
    assert!(found.get("/v1/hello").is_err(), "it is not served to others any more");
    shell.say("/v1/hello");
    assert_eq!(shell.line(), "hello");
    drop(shell.child.stdin.take());
    assert!(shell.child.wait().unwrap().success());
}

#[test]
fn acme_is_a_product_in_120_lines() {
    let lines = [
        include_str!("../../examples/acme/main.rs"),
        include_str!("../../examples/acme/daemon.rs"),
    ];
    assert!(lines.iter().map(|text| text.lines().count()).sum::<usize>() <= 120);
}
