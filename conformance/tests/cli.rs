//! The command line: exit codes, messages, reports.
#![allow(clippy::unwrap_used, reason = "in a test's helpers as in a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use local_daemon_harness::wait::until;
use serde_json::Value;

/// What a run of the binary left.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

fn daemonspec<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Ended {
    let output = Command::new(cargo_bin!("daemonspec"))
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A manifest in a directory of its own.
fn manifest(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("subject.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn a_broken_manifest_ends_3_and_says_where_and_what_was_meant() {
    let texts = [
        ("[daemon]\nrun = ['true'", "line 2", ""),
        (
            "[daemon]\nrun = ['true']\nready_timeout = 1",
            "daemon.ready_timeout",
            "`ready_timeout_ms`",
        ),
        ("[daemon]\nrun = ['./no/such/daemon']", "./no/such/daemon", "PATH"),
        (
            "[daemon]\nrun = ['true', '{stat_dir}']",
            "{stat_dir}",
            "{state_dir}",
        ),
        (
            "[daemon]\nrun = ['true']\nstand_down_timeout_ms = 0",
            "daemon.stand_down_timeout_ms",
            "",
        ),
        ("[subject]\nname = 'x'", "daemon", ""),
    ];
    for (text, key, help) in texts {
        let (_folder, path) = manifest(text);
        let ended = daemonspec(["run", &path]);
        assert_eq!(ended.code, 3, "{text}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(key) && ended.stderr.contains(help),
            "{text}: {}",
            ended.stderr
        );
        assert!(ended.stdout.is_empty());
    }
    let ended = daemonspec(["run", "/no/such/subject.toml"]);
    assert_eq!(ended.code, 3);
    assert!(ended.stderr.contains("/no/such/subject.toml"), "{}", ended.stderr);
}

#[test]
fn bad_usage_ends_3_and_help_ends_0() {
    for arguments in [
        &["run"][..],
        &["run", "--jobs", "0", "--", "true"],
        &["run", "--profile", "cor", "--", "true"],
        &["run", "--report", "jsn=x", "--", "true"],
        &["run", "--case", "[", "--", "true"],
        &["run", "--", "no-such-program-here"],
        &["frobnicate"],
    ] {
        let ended = daemonspec(arguments.iter().copied());
        assert_eq!(ended.code, 3, "{arguments:?}: {}", ended.stderr);
        assert!(!ended.stderr.is_empty());
    }
    assert_eq!(daemonspec(["--help"]).code, 0);
    assert!(daemonspec(["run", "--help"]).stdout.contains("130"));
}

#[test]
fn nothing_selected_ends_4_and_suggests() {
    let ended = daemonspec(["run", "--case", "nothing/*"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    let ended = daemonspec(["run", "--case", "registration/round-trip-discovry", "--", "true"]);
    assert_eq!(ended.code, 4);
    assert!(
        ended.stderr.contains("registration/round-trip-discovery"),
        "{}",
        ended.stderr
    );
    assert_eq!(daemonspec(["run", "--role", "client", "--", "true"]).code, 4);
    let ended = daemonspec(["explain", "PUBB-3"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("PUB-3"), "{}", ended.stderr);
}

#[test]
fn a_requirement_and_a_case_are_explained() {
    let ended = daemonspec(["explain", "pub-1"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for part in ["PUB-1", "loopback addresses only", "Why", "Cases", "Met in"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let ended = daemonspec(["explain", "registration/round-trip-discovery"]);
    assert_eq!(ended.code, 0);
    assert!(ended.stdout.contains("REG-5"), "{}", ended.stdout);
}

#[test]
fn the_matrix_lists_every_requirement_once() {
    let ended = daemonspec(["list", "--requirements", "--json"]);
    let matrix: Value = serde_json::from_str(&ended.stdout).unwrap();
    let rows = matrix["requirements"].as_array().unwrap();
    assert_eq!(rows.len(), local_daemon_spec::catalogue().requirements().count());
    let status = |id: &str| {
        let row = rows.iter().find(|row| row["id"] == id).unwrap();
        row["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status("REG-5"), "judged");
    assert_eq!(status("HS-12"), "untestable");
    assert_eq!(status("HS-24"), "planned");
    let text = daemonspec(["list", "--requirements"]).stdout;
    assert!(text.contains("registration/round-trip-discovery"), "{text}");
    let cases: Value = serde_json::from_str(&daemonspec(["list", "--json"]).stdout).unwrap();
    assert!(!cases["cases"].as_array().unwrap().is_empty());
}

#[test]
fn init_writes_a_manifest_and_never_over_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("subject.toml");
    let path = path.to_str().unwrap();
    assert_eq!(daemonspec(["init", path]).code, 0);
    let written = std::fs::read_to_string(path).unwrap();
    assert_eq!(written, daemonspec(["init"]).stdout);
    std::fs::write(path, "mine").unwrap();
    let ended = daemonspec(["init", path]);
    assert_eq!(ended.code, 3);
    assert!(ended.stderr.contains(path), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
}

#[test]
fn doctor_says_how_to_get_what_is_missing() {
    let ended = daemonspec(["doctor", "--json"]);
    assert_eq!(ended.code, 0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["what"] == "strace"));
    for finding in findings {
        assert_eq!(
            finding["has"] == false,
            finding["remedy"].is_string(),
            "{finding}"
        );
    }
}

#[test]
fn a_report_that_cannot_be_written_ends_3_before_the_subject_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("started");
    let script = format!("touch '{}'", marker.display());
    for path in ["/no/such/folder/report.json", folder.path().to_str().unwrap()] {
        let report = format!("json={path}");
        let ended = daemonspec(["run", "--report", &report, "--", "sh", "-c", &script]);
        assert_eq!(ended.code, 3);
        assert!(ended.stderr.contains(path), "{}", ended.stderr);
    }
    assert!(!marker.exists());
}

/// Runs a subject that cannot pass anything; its JSON report.
fn degenerate(subject: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let option = format!("json={}", report.display());
    let began = Instant::now();
    let path = format!("conformance/subjects/{subject}.toml");
    let ended = daemonspec(["run", &path, "--report", &option]);
    assert_eq!(ended.code, 1, "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.is_empty(), "{}", ended.stderr);
    assert!(began.elapsed() < Duration::from_mins(2));
    let json: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let named = |verdict: &str| -> Vec<&str> {
        let results = json["results"].as_array().unwrap().iter();
        results
            .filter(|result| result["verdict"] == verdict)
            .filter_map(|result| result["case"].as_str())
            .collect()
    };
    // Whoever passes here has been judged without having been seen alive.
    assert!(named("pass").is_empty(), "{subject} passes {:?}", named("pass"));
    assert!(
        named("harness-error").is_empty(),
        "{subject} breaks {:?}",
        named("harness-error")
    );
    let last = ended.stdout.lines().last().unwrap();
    assert!(last.starts_with("cases: 0 passed, "), "{last}");
    json
}

/// Builds the binary with the harness's subjects beside `daemonspec`; it belongs to another package, so that running
/// this package's tests alone does not.
fn build_subjects() -> PathBuf {
    let beside = cargo_bin!("daemonspec").parent().unwrap().to_owned();
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--package",
        "local-daemon-harness",
        "--package",
        "local-daemon-conformance",
    ]);
    build
        .args(["--bins", "--target-dir"])
        .arg(beside.parent().unwrap())
        .current_dir(root());
    if beside.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    beside.join("daemonspec-subject")
}

#[test]
fn a_subject_that_exits_at_once_passes_nothing() {
    let report = degenerate("null");
    let schema = serde_json::from_str(local_daemon_spec::schemas::get("report").unwrap()).unwrap();
    jsonschema::validate(&schema, &report).unwrap();
    assert_eq!(report["complete"], true);
    assert_eq!(report["subject"]["name"], "null");
    assert_eq!(report["subject"]["sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn subjects_that_hang_or_answer_everything_alike_pass_nothing() {
    assert!(build_subjects().exists());
    for subject in ["hang", "ok", "unauthorized"] {
        degenerate(subject);
    }
}

#[test]
fn an_interrupt_ends_every_subject_and_leaves_an_incomplete_report() {
    let folder = tempfile::tempdir().unwrap();
    let (report, pids) = (folder.path().join("report.json"), folder.path().join("pids"));
    let script = format!("echo $$ >> '{}'; exec sleep 600", pids.display());
    let mut suite = Command::new(cargo_bin!("daemonspec"))
        .args([
            "run",
            "--jobs",
            "2",
            "--report",
            &format!("json={}", report.display()),
            "--",
            "sh",
            "-c",
            &script,
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let read = || {
        std::fs::read_to_string(&pids)
            .ok()
            .filter(|text| text.lines().count() >= 2)
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    until(deadline, Duration::from_millis(5), read).expect("two subjects start");
    let pid = rustix::process::Pid::from_child(&suite);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(suite.wait().unwrap().code(), Some(130));
    for pid in std::fs::read_to_string(&pids).unwrap().lines() {
        assert!(!Path::new("/proc").join(pid).exists(), "subject {pid} lives");
    }
    let json: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(json["complete"], false);
}
