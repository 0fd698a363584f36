//! `daemonspec run`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use local_daemon_harness::wait::until;
use serde_json::Value;

use super::{FAILING, build_subjects, daemonspec, manifest, valid};

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

/// A script instead of a model, which keeps the trace and ends with `status`.
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
    // One of several that matches nothing ends nothing.
    let two = [
        "--case",
        "registration/round-trip-*",
        "--case",
        "registration/round-tripp-*",
    ];
    let ended = daemonspec(["run", "--never-ready"].into_iter().chain(two).chain(["--", "true"]));
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("no case matches `registration/round-tripp-*`"), "{}", ended.stderr);
    let ended = daemonspec(["explain", "PUBB-3"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("PUB-3"), "{}", ended.stderr);
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
    let ended = daemonspec(["run", &path, "--never-ready", "--report", &option]);
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
    assert!(last.starts_with("cases: ") && !last.contains(" pass"), "{last}");
    json
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
            "--never-ready",
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
        "--never-ready",
        "--",
        "true",
    ]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    for part in [
        "known FAIL",
        "it never starts",
        "conforms but for known failures",
        "cases: 1 fail",
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
        "--never-ready",
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
        "--never-ready",
        "--",
        "true",
    ]);
    assert_eq!(ended.code, 5, "{}", ended.stdout);
    let named = "STALE BASELINE registration/round-trip-discovry (REG-5): no such case; did you mean \
                 registration/round-trip-discovery?";
    assert!(ended.stdout.contains(named), "{}", ended.stdout);
    // What fails and is not known is graver.
    assert_eq!(
        daemonspec([
            "run",
            "--never-ready",
            "--case",
            FAILING,
            "--baseline",
            &path,
            "--",
            "true"
        ])
        .code,
        1
    );
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
