//! The command line: exit codes, messages, reports.

mod dev;
mod host;
mod product;
mod ready;
mod replay;
mod run;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;
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

/// Checks a value by a schema of the specification.
fn valid(schema: &str, value: &Value) {
    let schema = serde_json::from_str(local_daemon_spec::schemas::get(schema).unwrap()).unwrap();
    jsonschema::validate(&schema, value).unwrap();
}

/// A manifest in a directory of its own.
fn manifest(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("subject.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// Builds the binary with the subjects beside `daemonspec`; it belongs to another package, so that running
/// this package's tests alone does not.
fn build_subjects() -> PathBuf {
    let beside = cargo_bin!("daemonspec").parent().unwrap().to_owned();
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--package",
        "local-daemon-subject",
        "--package",
        "local-daemon-conformance",
    ]);
    build.args(["--bins", "--target-dir"]).arg(beside.parent().unwrap()).current_dir(root());
    if beside.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    beside.join("daemonspec-subject")
}

/// A case that fails for a subject that exits at once.
const FAILING: &str = "registration/round-trip-discovery";

#[test]
fn bad_usage_ends_3_and_help_ends_0() {
    for arguments in [
        &["run"][..],
        &["run", "--jobs", "0", "--", "true"],
        &["run", "--profile", "cor", "--", "true"],
        &["run", "--report", "jsn=x", "--", "true"],
        &["run", "--report", "json=-", "--report", "html=-", "--", "true"],
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
    assert_eq!(status("LIFE-1"), "planned");
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
        assert_eq!(finding["has"] == false, finding["remedy"].is_string(), "{finding}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_fault_unless_its_reader_has_left() {
    for arguments in [
        &["init"][..],
        &["list"],
        &["list", "--json"],
        &["list", "--requirements"],
        &["explain", "PUB-1"],
        &["doctor", "--json"],
        &["--help"],
        &["--version"],
    ] {
        let ended = |stdout: Stdio| {
            let mut command = Command::new(cargo_bin!("daemonspec"));
            let child = command.args(arguments).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
            let output = child.wait_with_output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, said) = ended(std::fs::File::options().write(true).open("/dev/full").unwrap().into());
        assert!(code == Some(3) && said.contains("No space left"), "{arguments:?}: {code:?}: {said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(ended(writer.into()), (Some(0), String::new()), "{arguments:?}");
    }
}
