//! `doctor` finds what is wrong, and mends only what can be mended without harm.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::{Home, Manner, Refusing, Squatter, chmod, mode, names};

/// The diagnosis: exit code, the level of each check, and how much was fixed.
fn diagnose(home: &Home, args: &[&str]) -> (i32, Vec<(String, String)>, usize) {
    let seen = home.locald(&[&["doctor", "--json"], args].concat());
    let json = seen.json();
    assert_eq!(json["healthy"], json!(seen.code == 0), "{seen:?}");
    let text = |check: &Value, member: &str| check[member].as_str().unwrap().to_owned();
    let checks = json["checks"].as_array().unwrap();
    let levels = checks.iter().map(|check| (text(check, "check"), text(check, "level"))).collect();
    (seen.code, levels, json["fixed"].as_array().unwrap().len())
}

fn failing(levels: &[(String, String)]) -> Vec<&str> {
    levels
        .iter()
        .filter(|(_, level)| level != "ok")
        .map(|(check, _)| check.as_str())
        .collect()
}

#[test]
fn nothing_yet_and_a_running_daemon_are_healthy() {
    let home = Home::new();
    assert_eq!(home.locald(&["doctor"]).code, 0);
    assert!(!home.state_dir().exists());
    assert_eq!(home.locald(&["start"]).code, 0);
    let (code, levels, fixed) = diagnose(&home, &[]);
    assert_eq!((code, failing(&levels), fixed), (0, vec![], 0));
    assert_eq!(levels.len(), 11, "{levels:?}");
    assert_eq!(home.locald(&["stop"]).code, 0);
    assert_eq!(diagnose(&home, &[]).0, 0);
}

#[test]
fn modes_are_set_right() {
    let home = Home::new();
    home.locald(&["start"]);
    home.locald(&["stop"]);
    home.locald(&["origins", "add", "https://app.example"]);
    let nobody = Refusing::new();
    home.pretend(nobody.port);
    fs::remove_file(home.file("registration.json")).unwrap();
    chmod(home.state_dir(), 0o755);
    assert_eq!(diagnose(&home, &[]).0, 1);
    chmod(home.state_dir(), 0o700);
    for name in ["credential", "registration.lock", "daemon.log", "config.toml"] {
        chmod(home.file(name), 0o644);
    }
    let (code, levels, fixed) = diagnose(&home, &[]);
    assert_eq!(
        (code, failing(&levels), fixed),
        (1, vec!["credential", "lock", "log", "config", "daemon"], 0)
    );
    assert_eq!(mode(home.file("credential")), 0o644, "without --fix nothing is touched");

    chmod(home.state_dir(), 0o755);
    let (code, levels, fixed) = diagnose(&home, &["--fix"]);
    assert_eq!((code, failing(&levels), fixed), (0, vec![], 5));
    for name in ["credential", "registration.lock", "daemon.log", "config.toml"] {
        assert_eq!(mode(home.file(name)), 0o600);
    }
    assert_eq!(mode(home.state_dir()), 0o700);
}

#[test]
fn a_link_is_reported_and_left_alone() {
    let home = Home::new();
    home.locald(&["credential", "rotate"]);
    let elsewhere = home.file("elsewhere");
    fs::rename(home.file("credential"), &elsewhere).unwrap();
    chmod(&elsewhere, 0o644);
    std::os::unix::fs::symlink(&elsewhere, home.file("credential")).unwrap();
    let (code, levels, fixed) = diagnose(&home, &["--fix"]);
    assert_eq!((code, failing(&levels)[0], fixed), (1, "credential", 0));
    assert_eq!(mode(elsewhere), 0o644);
}

#[test]
fn a_stale_record_is_removed_after_a_refusal() {
    let home = Home::new();
    let nobody = Refusing::new();
    home.pretend(nobody.port);
    let (code, levels, fixed) = diagnose(&home, &[]);
    assert_eq!((code, failing(&levels), fixed), (1, vec!["daemon"], 0));
    assert!(home.record().is_some());
    let (code, _, fixed) = diagnose(&home, &["--fix"]);
    assert_eq!((code, fixed), (0, 1));
    assert_eq!(names(home.state_dir()), ["credential"]);
}

#[test]
fn a_record_with_anybody_behind_it_stays() {
    for manner in [Manner::Agree, Manner::Mute] {
        let home = Home::new();
        let squatter = Squatter::new(manner);
        let id = home.pretend(squatter.port);
        let (code, levels, fixed) = diagnose(&home, &["--fix"]);
        assert_eq!((code, failing(&levels), fixed), (1, vec!["daemon"], 0));
        assert_eq!(home.record().unwrap()["id"].as_str(), Some(&*id));
    }
}

/// CONV-38: a record of yesterday that was taken a moment ago.
#[test]
fn an_old_record_that_was_just_taken_stays() {
    let home = Home::new();
    home.locald(&["credential", "rotate"]);
    let taken = home.file(&format!("registration.json.taken-{}-{}", "1".repeat(32), "0".repeat(32)));
    fs::write(&taken, "{}").unwrap();
    let then = SystemTime::now() - Duration::from_hours(24);
    File::options().write(true).open(&taken).unwrap().set_modified(then).unwrap();
    let (code, levels, fixed) = diagnose(&home, &["--fix"]);
    assert_eq!((code, failing(&levels), fixed), (0, vec![], 0));
    assert!(taken.exists());
}

#[test]
fn a_damaged_credential_and_a_malformed_record_are_named() {
    let home = Home::new();
    home.pretend(1);
    fs::write(home.file("credential"), "short\n").unwrap();
    fs::write(home.file("registration.json"), "{}").unwrap();
    let seen = home.locald(&["doctor", "--fix"]);
    assert_eq!(seen.code, 1, "{seen:?}");
    for word in ["credential rotate", "`id` is missing"] {
        assert!(seen.stdout.contains(word), "{seen:?}");
    }
}
