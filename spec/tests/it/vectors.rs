//! Vectors and schemas are two statements of one contract; where both can judge a value, they agree.

use local_daemon_spec::schemas;
use local_daemon_spec::vectors::cases;
use serde_json::{Value, json};

fn schema(name: &str) -> jsonschema::Validator {
    let text = schemas::get(name).expect("the schema is listed");
    let schema = serde_json::from_str(text).expect("the schema is JSON");
    jsonschema::draft202012::new(&schema).expect("the schema is one")
}

fn accepted(case: &Value) -> bool {
    case["accept"].as_bool().expect("every case says whether it is accepted")
}

#[test]
fn the_record_schema_accepts_exactly_the_urls_that_the_vectors_accept() {
    let schema = schema("record");
    for case in cases("urls") {
        let record = json!({
            "id": "5f0c2a9be17d4836a1c04f9d2e6b8370",
            "version": "",
            "url": case["input"],
            "pid": 1,
        });
        assert_eq!(schema.is_valid(&record), accepted(&case), "{case}");
    }
}

#[test]
fn every_accepted_record_is_valid_by_its_schema() {
    let schema = schema("record");
    let mut judged = 0;
    for case in cases("records").iter().filter(|case| accepted(case)) {
        let text = case["input"].as_str().expect("accepted records are text");
        let record = serde_json::from_str(text).expect("accepted records are JSON");
        assert!(schema.is_valid(&record), "{case}");
        judged += 1;
    }
    assert!(judged > 0);
}

#[test]
fn records_that_only_break_a_member_are_invalid_by_their_schema() {
    let schema = schema("record");
    let by_member = |name: &str| {
        [
            "missing-", "null-", "number-", "array-", "object-", "false-", "id-", "pid-", "url-",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
    };
    let mut judged = 0;
    for case in cases("records").iter().filter(|case| !accepted(case)) {
        // To a schema 1.0 and 1e3 are integers.
        let name = case["name"].as_str().expect("every case has a name");
        let text = case["input"].as_str().unwrap_or_default();
        if let Ok(record) = serde_json::from_str::<Value>(text)
            && by_member(name)
            && !["pid-1-point-0", "pid-1e3"].contains(&name)
        {
            assert!(!schema.is_valid(&record), "{case}");
            judged += 1;
        }
    }
    assert!(judged > 0);
}

#[test]
fn the_handshake_bodies_of_the_proofs_are_valid_by_their_schema() {
    let schema = schema("handshake");
    for name in ["mac-example", "mac-draining", "mac-random"] {
        let cases = cases("proof");
        let case = cases.iter().find(|case| case["name"] == name).expect("the case is there");
        let body: Value =
            serde_json::from_str(case["body"].as_str().expect("its body is text")).expect("JSON");
        assert!(schema.is_valid(&body), "{name}");
    }
}

#[test]
fn a_gate_is_compatible_exactly_on_equality_and_displaces_only_upwards() {
    let identifier = |text: &Value| {
        let (name, number) = text.as_str()?.split_once('/')?;
        Some((name.to_owned(), number.parse::<u32>().ok()?))
    };
    for case in cases("protocols").iter().filter(|case| case["kind"] == "gate") {
        let ours = identifier(&case["ours"]).expect("gates compare identifiers");
        let theirs = identifier(&case["theirs"]).expect("gates compare identifiers");
        assert_eq!(accepted(case), ours == theirs, "{case}");
        assert_eq!(case["outcome"], if ours == theirs { "compatible" } else { "incompatible" }, "{case}");
        assert_eq!(case["may_displace"], ours.0 == theirs.0 && ours.1 > theirs.1, "{case}");
    }
}
