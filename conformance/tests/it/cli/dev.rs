//! `daemonspec dev`: `interop`, `soak`, `mutants`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{build_subjects, daemonspec, manifest, root, valid};

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
fn soak(fault: Option<&str>, only: &[&str]) -> (i32, Value) {
    let text = std::fs::read_to_string(root().join("conformance/subjects/independent.toml")).unwrap();
    let plain = r#""--state-dir", "{state_dir}"]"#;
    let faulty = fault
        .map_or_else(|| plain.to_owned(), |fault| plain.replace(']', &format!(r#", "--fault", "{fault}"]"#)));
    // The daemon's own command is the first.
    let (_folder, path) = manifest(&text.replacen(plain, &faulty, 1));
    let only = only.iter().flat_map(|only| ["--fault", only]);
    let ended = daemonspec(["dev", "soak", &path, "--minutes", "0.05", "--json"].into_iter().chain(only));
    let soak: Value = serde_json::from_str(&ended.stdout).unwrap();
    valid("soak", &soak);
    (ended.code, soak)
}

#[test]
fn a_daemon_is_loaded_and_broken_and_what_it_does_not_outlive_is_told() {
    assert!(build_subjects().exists());
    // Without `load/strangers`: 2,000 connections would slow the tests that run at the same time.
    let some = [
        "load/paused",
        "load/slow-heads",
        "load/stalled-streams",
        "soak/permission-lost",
        "soak/stopped",
    ];
    let (code, clean) = soak(None, &some);
    assert_eq!(code, 0, "{clean:#}");
    assert!(clean["load"]["accepted"].as_u64() > Some(100), "{clean:#}");
    // Shows at each resumption, also if nothing was appended meanwhile.
    let (code, again) = soak(Some("STR-15.inclusive"), &["load/paused"]);
    assert_eq!(code, 1);
    let wrong = &again["load"]["wrong"][0];
    assert!(wrong.as_str().unwrap().starts_with("after event "), "{again:#}");
    let (code, deaf) = soak(Some("PER-34.deaf"), &["load/garbage"]);
    assert_eq!(code, 1);
    assert_eq!(deaf["faults"]["load/garbage"]["held"], 0, "{deaf:#}");
    let (code, left) = soak(Some("CONV-16.keeps-the-record"), &["soak/stopped"]);
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
