//! The binary as people and scripts meet it.

use std::process::{Command, Output};

use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_local-daemon-model")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn check_explores_one_scenario_and_says_that_it_holds() {
    let output = run(&["check", "--scenario", "two-daemons-stop"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(text.contains("two-daemons-stop") && text.ends_with("all hold\n"), "{text}");
}

#[test]
fn check_tells_a_script() {
    let output = run(&["check", "--scenario", "two-clients-stale", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let all: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(all[0]["scenario"], "two-clients-stale");
    assert!(all[0]["states"].as_u64() > Some(10), "{all}");
    assert_eq!(all[0]["violations"], serde_json::json!([]));
}

#[test]
fn ablate_misses_every_rule() {
    let output = run(&["ablate", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let all: Value = serde_json::from_str(stdout(&output)).unwrap();
    let all = all.as_array().unwrap();
    assert!(all.len() >= 14, "{all:?}");
    assert!(all.iter().all(|rule| rule["steps"].as_u64() > Some(0)), "{all:?}");
}

#[test]
fn show_prints_numbered_steps() {
    let output = run(&["show", "literal-removal"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(text.contains("  1. D0   renames its record into place"), "{text}");
    assert!(text.contains("D0   unlinks the record: D1's"), "{text}");
}

#[test]
fn an_unknown_name_is_wrong_usage_and_the_known_are_listed() {
    for (arguments, known) in [
        (&["show", "nothing"][..], "literal-removal"),
        (&["check", "--scenario", "nothing"], "two-daemons-stop"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("nothing") && error.contains(known), "{error}");
    }
}

#[test]
fn boxes_writes_what_show_prints() {
    let spec = std::env::temp_dir().join(format!("local-daemon-model-{}", std::process::id()));
    let output = run(&["boxes", "--spec", spec.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let written = std::fs::read_to_string(spec.join("traces/no-reclaim.txt")).unwrap();
    assert_eq!(written, stdout(&run(&["show", "no-reclaim"])));
    std::fs::remove_dir_all(&spec).unwrap();
}
