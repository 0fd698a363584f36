//! What is the host's fault is never the subject's, and nothing of a run outlives it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use local_daemon_harness::platform::{Setup, prepare};
use local_daemon_harness::process::{Signal, processes};
use local_daemon_harness::wait::until;

use super::{FAILING, build_subjects, root};

/// A run of the independent subject, which is there.
fn run(case: &str) -> Command {
    assert!(build_subjects().exists());
    let mut command = Command::new(cargo_bin!("daemonspec"));
    command
        .args(["run", "conformance/subjects/independent.toml", "--case", case])
        .current_dir(root());
    command
}

/// Ends 3 with a paragraph that names `part`, and without a verdict.
fn refused(command: &mut Command, part: &str) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(output.stdout.is_empty() && said.contains(part) && said.lines().count() == 2, "{part}: {said}");
}

#[test]
fn a_host_without_what_a_run_needs_ends_3_and_says_what() {
    let folder = tempfile::tempdir().unwrap();
    refused(run(FAILING).env("TMPDIR", folder.path().join("gone")), "gone");
    let odd = folder.path().join(OsStr::from_bytes(b"\xff"));
    std::fs::create_dir(&odd).unwrap();
    refused(run(FAILING).env("TMPDIR", &odd), "UTF-8");
    let tools = folder.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    for tool in ["sh", "cat"] {
        std::os::unix::fs::symlink(local_daemon_harness::platform::which(tool).unwrap(), tools.join(tool))
            .unwrap();
    }
    refused(run(FAILING).env("PATH", &tools), "no sleep");
    let limited = |limit: &str| {
        let mut command = Command::new("sh");
        let inner = run(FAILING);
        command
            .args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        command.current_dir(root());
        command
    };
    refused(&mut limited("-n 100"), "4096 open descriptors");
    // What may be raised is raised.
    let output = limited("-Sn 100").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_odd_folder_and_odd_signals_are_put_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("it's \"quoted\\");
    std::fs::create_dir(&odd).unwrap();
    let mut command = run("publish/cannot-publish-and-says-so");
    command
        .env("TMPDIR", &odd)
        .args(["--case", "convergence/stop-takes-the-record-by-rename"]);
    let setup = Setup {
        blocked: &[Signal::TERM],
        ignored: &[Signal::CHILD],
        ..Setup::default()
    };
    prepare(&mut command, setup);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// A run that has several daemons and directories below `folder`.
fn begun(folder: &Path) -> Child {
    let mut command = run("convergence/*");
    command.env("TMPDIR", folder).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let child = command.spawn().unwrap();
    let alive = || (entries(folder) >= 2 && of(folder) >= 2).then_some(());
    until(Instant::now() + Duration::from_secs(20), alive).expect("cases run");
    child
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// How many processes run in an environment that names the folder.
fn of(folder: &Path) -> usize {
    let mark = folder.as_os_str().as_bytes();
    let named = |entry: &std::ffi::OsString| entry.as_bytes().starts_with(&[b"HOME=", mark].concat());
    processes().iter().filter(|process| process.environ().iter().any(named)).count()
}

#[test]
fn a_run_that_is_killed_leaves_neither_processes_nor_directories() {
    let folder = tempfile::tempdir().unwrap();
    let mut suite = begun(folder.path());
    suite.kill().unwrap();
    suite.wait().unwrap();
    let clean = || (entries(folder.path()) == 0 && of(folder.path()) == 0).then_some(());
    let left = || format!("{} directories, {} processes", entries(folder.path()), of(folder.path()));
    assert!(until(Instant::now() + Duration::from_secs(20), clean).is_some(), "{}", left());
}

#[test]
fn a_run_that_is_interrupted_twice_leaves_neither_processes_nor_directories() {
    let folder = tempfile::tempdir().unwrap();
    let mut suite = begun(folder.path());
    let pid = rustix::process::Pid::from_child(&suite);
    for _ in 0..2 {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(suite.wait().unwrap().code(), Some(130));
    assert_eq!((entries(folder.path()), of(folder.path())), (0, 0));
}
