//! The command line: exit codes, messages, reports.

use std::collections::BTreeSet;
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

#[test]
fn a_broken_manifest_ends_3_and_says_where_and_what_was_meant() {
    let texts = [
        ("[daemon]\nrun = ['true'", "line 2", ""),
        ("[daemon]\nrun = ['true']\nready_timeout = 1", "daemon.ready_timeout", "`ready_timeout_ms`"),
        ("[daemon]\nrun = ['./no/such/daemon']", "./no/such/daemon", "PATH"),
        ("[daemon]\nrun = ['true', '{stat_dir}']", "{stat_dir}", "{state_dir}"),
        ("[daemon]\nrun = ['true']\nstand_down_timeout_ms = 0", "daemon.stand_down_timeout_ms", ""),
        ("[subject]\nname = 'x'", "daemon", ""),
    ];
    for (text, key, help) in texts {
        let (_folder, path) = manifest(text);
        let ended = daemonspec(["run", &path]);
        assert_eq!(ended.code, 3, "{text}: {}", ended.stderr);
        assert!(ended.stderr.contains(key) && ended.stderr.contains(help), "{text}: {}", ended.stderr);
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
fn a_model_that_is_nowhere_ends_3_before_the_subject_is_started() {
    let (_folder, path) = manifest("[daemon]\nrun = ['true']");
    let ended = daemonspec(["run", &path, "--check-trace=no-such-model"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""));
    assert!(
        ended.stderr.contains("no-such-model") && ended.stderr.contains("cargo build"),
        "{}",
        ended.stderr
    );
}

/// A script in the place of a model, which keeps the trace and ends with `status`.
fn model(folder: &Path, status: i32) -> String {
    let path = folder.join("model");
    let text = format!(
        "#!/bin/sh\ncat >{}/trace.json\necho 'refused at event 0'\nexit {status}\n",
        folder.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    format!("--check-trace={}", path.display())
}

#[test]
fn what_was_seen_of_a_case_is_handed_to_a_model_and_its_refusal_ends_1() {
    let subject = build_subjects();
    let (folder, path) = manifest(&format!(
        "[daemon]\nrun = ['{}', 'daemon', '--state-dir', '{{state_dir}}']",
        subject.display()
    ));
    let schema = local_daemon_spec::schemas::get("observed-trace").unwrap();
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let case = "convergence/stop-takes-the-record-by-rename";
    for (status, code, said) in [
        (0, 0, "1 admitted, 0 outside the model, 0 refused"),
        (1, 1, "0 admitted, 0 outside the model, 1 refused"),
        (4, 0, "0 admitted, 1 outside the model, 0 refused"),
        (7, 3, "1 not judged"),
    ] {
        let ended = daemonspec(["run", &path, "--case", case, &model(folder.path(), status)]);
        assert_eq!(ended.code, code, "{}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains(said), "{}", ended.stdout);
        let trace = std::fs::read_to_string(folder.path().join("trace.json")).unwrap();
        let trace: Value = serde_json::from_str(&trace).unwrap();
        schema.validate(&trace).unwrap();
        let whats: Vec<&str> = trace["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["what"].as_str().unwrap())
            .collect();
        // Whether the end or the last change was noticed first says nothing: each has two instants, and they overlap.
        let order = ["daemon-started", "record-taken", "taken-removed"];
        let found: Vec<&str> = whats.iter().copied().filter(|what| order.contains(what)).collect();
        assert_eq!(found, order, "{trace:#}");
        assert!(["answered", "asked-to-stop", "exited"].iter().all(|what| whats.contains(what)), "{trace:#}");
    }
}

#[test]
fn nothing_selected_ends_4_and_suggests() {
    let ended = daemonspec(["run", "--case", "nothing/*"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    let ended = daemonspec(["run", "--case", "registration/round-trip-discovry", "--", "true"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("registration/round-trip-discovery"), "{}", ended.stderr);
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
    assert!(named("harness-error").is_empty(), "{subject} breaks {:?}", named("harness-error"));
    let last = ended.stdout.lines().last().unwrap();
    assert!(last.starts_with("cases: 0 passed, "), "{last}");
    json
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

#[test]
fn a_subject_that_exits_at_once_passes_nothing() {
    let report = degenerate("null");
    valid("report", &report);
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
fn clients_that_give_one_answer_to_everything_pass_nothing() {
    for subject in ["credulous", "blind"] {
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
    let read = || std::fs::read_to_string(&pids).ok().filter(|text| text.lines().count() >= 2);
    let deadline = Instant::now() + Duration::from_secs(10);
    until(deadline, read).expect("two subjects start");
    let pid = rustix::process::Pid::from_child(&suite);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(suite.wait().unwrap().code(), Some(130));
    for pid in std::fs::read_to_string(&pids).unwrap().lines() {
        assert!(!Path::new("/proc").join(pid).exists(), "subject {pid} lives");
    }
    let json: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(json["complete"], false);
}

const FAILING: &str = "registration/round-trip-discovery";

/// A baseline in a directory of its own.
fn baseline(case: &str, reason: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("baseline.toml");
    let text = format!("[[expected]]\ncase = '{case}'\nrequirement = 'REG-5'\nreason = '{reason}'\n");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn a_known_failure_ends_0_with_its_reason_and_another_one_ends_1() {
    let (folder, known) = baseline(FAILING, "it never starts");
    let json = folder.path().join("report.json");
    let report = format!("json={}", json.display());
    let ended = daemonspec([
        "run",
        "--case",
        FAILING,
        "--baseline",
        &known,
        "--report",
        &report,
        "--",
        "true",
    ]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    for part in [
        "known FAIL",
        "it never starts",
        "conforms but for known failures",
        "1 failed",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    valid("report", &report);
    assert_eq!(report["results"][0]["known_failure"], "REG-5: it never starts");

    let more = [
        "run",
        "--case",
        "registration/*",
        "--baseline",
        &known,
        "--",
        "true",
    ];
    assert_eq!(daemonspec(more).code, 1);
}

#[test]
fn a_stale_baseline_ends_5_and_names_the_entry() {
    // Two entries: a case that was renamed, and one that fails as expected.
    let (folder, path) = baseline("registration/round-trip-discovry", "old");
    let (_other, known) = baseline(FAILING, "it never starts");
    let both = folder.path().join("both.toml");
    let texts = [&path, &known].map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(&both, texts.concat()).unwrap();
    let ended = daemonspec([
        "run",
        "--case",
        FAILING,
        "--baseline",
        both.to_str().unwrap(),
        "--",
        "true",
    ]);
    assert_eq!(ended.code, 5, "{}", ended.stdout);
    let named = "STALE BASELINE registration/round-trip-discovry (REG-5): no such case; did you mean \
                 registration/round-trip-discovery?";
    assert!(ended.stdout.contains(named), "{}", ended.stdout);
    // What fails and is not known is graver.
    assert_eq!(daemonspec(["run", "--case", FAILING, "--baseline", &path, "--", "true"]).code, 1);
}

#[test]
fn a_broken_baseline_ends_3_before_the_subject_is_started() {
    let (_folder, path) = baseline(FAILING, " ");
    let ended = daemonspec(["run", "--case", FAILING, "--baseline", &path, "--", "true"]);
    assert_eq!(ended.code, 3);
    assert!(ended.stderr.contains("has no reason") && ended.stdout.is_empty(), "{}", ended.stderr);
    let ended = daemonspec([
        "run",
        "--case",
        FAILING,
        "--baseline",
        "/no/such/file",
        "--",
        "true",
    ]);
    assert_eq!(ended.code, 3);
    assert!(ended.stderr.contains("/no/such/file"), "{}", ended.stderr);
}

#[test]
fn a_failure_is_repeated_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("daemon");
    let install = |text: &str| {
        std::fs::write(&program, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
    };
    install("#!/bin/sh\nexit 7\n");
    let failures = folder.path().join("failures");
    let run = [
        "run",
        "--case",
        FAILING,
        "--seed",
        "41",
        "--failures",
        failures.to_str().unwrap(),
        "--",
    ];
    let ended = daemonspec(run.into_iter().chain([program.to_str().unwrap()]));
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let file = failures.join("registration.round-trip-discovery.json");
    let file = file.to_str().unwrap();
    assert!(ended.stderr.contains(&format!("daemonspec replay {file}")), "{}", ended.stderr);
    let saved: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    valid("replay", &saved);

    let ended = daemonspec(["replay", file]);
    assert_eq!((ended.code, ended.stderr.as_str()), (1, ""), "{}", ended.stdout);
    assert!(ended.stdout.contains("seed 41") && ended.stdout.contains("exit status 7"), "{}", ended.stdout);
    assert!(
        ended.stdout.ends_with("replay: registration/round-trip-discovery fail again\n"),
        "{}",
        ended.stdout
    );

    install("#!/bin/sh\nexit 8\n");
    let ended = daemonspec(["replay", file]);
    assert!(ended.stderr.contains("executable is another one"), "{}", ended.stderr);

    std::fs::remove_file(&program).unwrap();
    let ended = daemonspec(["replay", file]);
    assert_eq!(ended.code, 3, "{}", ended.stdout);
    assert!(ended.stdout.ends_with("harness-error now, fail then\n"), "{}", ended.stdout);
}

#[test]
fn what_is_no_replay_file_ends_3_and_says_how_to_get_one() {
    let (_folder, path) = manifest("[daemon]");
    for file in [path.as_str(), "/no/such/file.json"] {
        let ended = daemonspec(["replay", file]);
        assert_eq!(ended.code, 3);
        assert!(ended.stderr.contains(file) && ended.stderr.contains("--failures"), "{}", ended.stderr);
    }
}

#[test]
fn every_client_meets_every_daemon_and_who_cannot_run_is_named() {
    assert!(build_subjects().exists());
    let independent = "conformance/subjects/independent.toml";
    let ended = daemonspec(["dev", "interop", independent]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.ends_with("pairs: 1 of 1 work\n"), "{}", ended.stdout);

    let (_folder, absent) = manifest("[daemon]\nrun = ['no-such-program-here']");
    let ended = daemonspec(["dev", "interop", independent, &absent]);
    assert_eq!(ended.code, 2, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("not run: subject: `daemon.run`: no program"), "{}", ended.stdout);

    // A daemon that exits at once, which says that it has no client.
    let ended = daemonspec([
        "dev",
        "interop",
        independent,
        "conformance/subjects/null.toml",
        "--json",
    ]);
    assert_eq!(ended.code, 1, "{}{}", ended.stdout, ended.stderr);
    let matrix: Value = serde_json::from_str(&ended.stdout).unwrap();
    valid("interop", &matrix);
    let pairs = matrix["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 2);
    let verdicts = |pair: &Value| -> BTreeSet<String> {
        let checks = pair["checks"].as_array().unwrap().iter();
        checks.map(|check| check["verdict"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((&pairs[1]["client"], &pairs[1]["daemon"]), (&"independent".into(), &"null".into()));
    assert_eq!(verdicts(&pairs[0]), BTreeSet::from(["pass".to_owned()]));
    assert!(!verdicts(&pairs[1]).contains("pass"), "{matrix:#}");

    assert_eq!(daemonspec(["dev", "interop", "conformance/subjects/null.toml"]).code, 4);
    let twice = daemonspec(["dev", "interop", independent, independent]);
    assert_eq!(twice.code, 3);
    assert!(twice.stderr.contains("`independent`"), "{}", twice.stderr);
}

/// A few seconds of load and faults for the independent subject, with a fault of its own or without.
fn soak(fault: Option<&str>, only: &str) -> (i32, Value) {
    let text = std::fs::read_to_string(root().join("conformance/subjects/independent.toml")).unwrap();
    let plain = r#""--state-dir", "{state_dir}"]"#;
    let faulty = fault
        .map_or_else(|| plain.to_owned(), |fault| plain.replace(']', &format!(r#", "--fault", "{fault}"]"#)));
    // The daemon's own command is the first.
    let (_folder, path) = manifest(&text.replacen(plain, &faulty, 1));
    let ended = daemonspec([
        "dev",
        "soak",
        &path,
        "--minutes",
        "0.05",
        "--fault",
        only,
        "--json",
    ]);
    let soak: Value = serde_json::from_str(&ended.stdout).unwrap();
    valid("soak", &soak);
    (ended.code, soak)
}

#[test]
fn a_daemon_is_loaded_and_broken_and_what_it_does_not_outlive_is_told() {
    assert!(build_subjects().exists());
    let (code, clean) = soak(None, "[ls]o*/[sp]*");
    assert_eq!(code, 0, "{clean:#}");
    assert!(clean["load"]["accepted"].as_u64() > Some(100), "{clean:#}");
    let (code, later) = soak(Some("STR-15.one-later"), "load/paused");
    assert_eq!(code, 1);
    let wrong = &later["load"]["wrong"][0];
    assert!(wrong.as_str().unwrap().starts_with("after event "), "{later:#}");
    let (code, deaf) = soak(Some("PER-34.deaf"), "load/garbage");
    assert_eq!(code, 1);
    assert_eq!(deaf["faults"]["load/garbage"]["held"], 0, "{deaf:#}");
    let (code, left) = soak(Some("CONV-16.keeps-the-record"), "soak/stopped");
    assert_eq!(code, 1);
    assert_eq!(left["faults"]["soak/stopped"]["held"], 0, "{left:#}");
    assert_eq!(
        daemonspec([
            "dev",
            "soak",
            "conformance/subjects/independent.toml",
            "--fault",
            "load/nothing"
        ])
        .code,
        4
    );
}

#[test]
fn a_fault_or_case_that_is_not_there_ends_4_and_suggests() {
    let ended = daemonspec(["dev", "mutants", "--fault", "PUB-999.*"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("no fault matches `PUB-999.*`"), "{}", ended.stderr);
    let ended = daemonspec(["dev", "mutants", "--without", "publish/loopback-onyl"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("did you mean publish/loopback-only"), "{}", ended.stderr);
    assert_eq!(daemonspec(["dev", "mutants", "--sample", "0"]).code, 3);
}

#[test]
fn a_command_of_dev_is_also_found_without_it() {
    let known = daemonspec(["dev", "mutants", "--sample", "0"]);
    assert_eq!(known.code, 3, "{}", known.stderr);
    let alias = daemonspec(["mutants", "--sample", "0"]);
    assert_eq!((alias.code, alias.stderr), (3, known.stderr));
    let help = daemonspec(["--help"]).stdout;
    assert!(help.contains("\n  dev ") && !help.contains("mutants"), "{help}");
}
