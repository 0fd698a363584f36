//! `daemonspec replay`.

use serde_json::Value;

use super::{FAILING, daemonspec, manifest, valid};

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
        "--never-ready",
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
