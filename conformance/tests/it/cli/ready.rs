//! Subjects that do not become ready, and claims that nothing judges.

use serde_json::Value;

use super::{build_subjects, daemonspec, manifest, valid};

/// A script as the subject's daemon. It is given its state directory.
fn script(text: &str, more: &str) -> (tempfile::TempDir, String) {
    let text = text.replace('\'', "'\\''");
    manifest(&format!("[daemon]\nrun = ['sh', '-c', \"\"\"{text}\"\"\", 'sh', '{{state_dir}}']\n{more}"))
}

/// Ends 3 with one paragraph and a line of help, and without a verdict.
fn paragraph(path: &str) -> String {
    let ended = daemonspec(["run", path]);
    assert_eq!(ended.code, 3, "{}{}", ended.stdout, ended.stderr);
    assert_eq!((ended.stdout.as_str(), ended.stderr.lines().count()), ("", 2), "{}", ended.stderr);
    ended.stderr
}

#[test]
fn a_subject_that_ends_is_told_with_its_status_and_words_and_ends_3() {
    let (_folder, path) = script("echo unknown option --state-dri >&2; exit 2", "");
    let said = paragraph(&path);
    for part in [
        "exit status 2",
        "unknown option --state-dri",
        "there is no registration.json",
        "foreground",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (_folder, path) = manifest("[daemon]\nrun = ['true']");
    let said = paragraph(&path);
    assert!(said.contains("exit status 0") && said.contains("It wrote nothing"), "{said}");
}

#[test]
fn a_subject_that_is_late_or_never_ready_ends_3_and_names_the_key() {
    let subject = build_subjects();
    let late = format!("sleep 2; exec {} daemon --state-dir \"$1\"", subject.display());
    let (_folder, path) = script(&late, "ready_timeout_ms = 1500");
    let said = paragraph(&path);
    assert!(said.contains("ready only after") && said.contains("`ready_timeout_ms = "), "{said}");
    let (_folder, path) = script("echo hello; exec sleep 600", "ready_timeout_ms = 500");
    let said = paragraph(&path);
    assert!(said.contains("500 ms of `daemon.ready_timeout_ms`") && said.contains("hello"), "{said}");
}

#[test]
fn a_subject_that_publishes_something_wrong_fails_one_requirement_and_nothing_else_is_run() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let report_option = format!("json={}", report.display());
    let zeros = "0".repeat(32);
    let record = |id: &str, url: &str| format!(r#"{{"id":"{id}","version":"1","url":"{url}","pid":1}}"#);
    for (record, id) in [
        ("{".to_owned(), "REG-1"),
        (record("x", "http://127.0.0.1:9"), "REG-3"),
        (record(&zeros, "ftp://127.0.0.1:9"), "REG-5"),
        (record(&zeros, "http://127.0.0.1:9"), "CRED-1"),
    ] {
        let text =
            format!("mkdir -m 700 \"$1\"; cat > \"$1/registration.json\" <<'E'\n{record}\nE\nexec sleep 600");
        let program = folder.path().join("daemon.sh");
        std::fs::write(&program, text).unwrap();
        let (_folder, path) = manifest(&format!(
            "[daemon]\nrun = ['sh', '{}', '{{state_dir}}']\nready_timeout_ms = 500",
            program.display()
        ));
        let ended = daemonspec(["run", &path, "--report", &report_option]);
        assert_eq!(ended.code, 1, "{}{}", ended.stdout, ended.stderr);
        let json: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        valid("report", &json);
        let results = json["results"].as_array().unwrap();
        assert_eq!(results[0]["requirements"], serde_json::json!([id]), "{}", ended.stdout);
        assert_eq!(results[0]["verdict"], "fail");
        let others = results[1..].iter().map(|result| result["verdict"].as_str().unwrap());
        assert!(others.clone().any(|verdict| verdict == "not-run"));
        assert!(others.clone().all(|verdict| matches!(verdict, "not-run" | "not-applicable")));
        assert!(ended.stdout.contains("cases: 1 fail, "), "{}", ended.stdout);
        assert_eq!(ended.stdout.matches(&format!("{id}: ")).count(), 1, "{}", ended.stdout);
    }
}

#[test]
fn a_claimed_profile_that_no_case_judges_ends_3_with_its_name() {
    let (_folder, path) = manifest("[daemon]\nrun = ['true']\n[subject]\nprofiles = ['core', 'unix-socket']");
    let ended = daemonspec(["run", &path]);
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""));
    assert!(ended.stderr.contains("no case judges unix-socket yet"), "{}", ended.stderr);
    let ended = daemonspec([
        "run",
        &path,
        "--profile",
        "core",
        "--never-ready",
        "--case",
        "registration/*",
    ]);
    assert_eq!(ended.code, 1, "what is not selected is not refused: {}", ended.stderr);
}

#[test]
fn a_report_says_of_which_role_and_profiles_it_is_and_why_cases_do_not_apply() {
    let subject = build_subjects();
    let text = format!(
        "[daemon]\nrun = ['{}', 'daemon', '--state-dir', '{{state_dir}}']\n\
         [subject]\nprofiles = ['proof']\n[binding]\nauthenticated_read = {{ method = 'GET', path = '/v1/status' }}",
        subject.display()
    );
    let (_folder, path) = manifest(&text);
    let cases = [
        "--case",
        "registration/round-trip-*",
        "--case",
        "streams/*",
        "--case",
        "notes/*",
    ];
    let ended = daemonspec(["run", &path].into_iter().chain(cases).chain(["--report", "badge=-"]));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("conforms in the selected cases: daemon; core"), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("\nconforms in the selected cases: daemon; core\ncases: 1 pass, "),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("\nnot claimed: streams, notes (`subject.profiles`, `--profile`)\n"),
        "{}",
        ended.stderr
    );
    let ended = daemonspec(["run", &path, "--profile", "proof"]);
    assert!(ended.stdout.contains("\nconforms: daemon; proof\ncases: "), "{}", ended.stdout);
}

#[test]
fn what_failed_is_written_as_a_baseline_that_excuses_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("known.toml");
    let path = path.to_str().unwrap();
    let run = ["run", "--never-ready", "--case", "registration/*"];
    let ended = daemonspec(run.into_iter().chain(["--write-baseline", path, "--", "true"]));
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stdout.contains(" cases in which the same was observed"), "{}", ended.stdout);
    let ended = daemonspec(run.into_iter().chain(["--baseline", path, "--", "true"]));
    assert!(matches!(ended.code, 0 | 2), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("known FAIL"), "{}", ended.stdout);
}
