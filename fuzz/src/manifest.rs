//! The subject manifest: `daemonspec` takes whatever the JSON Schema of the specification takes, and reads what it writes.
//! (It takes some values besides that the schema refuses, such as one profile named twice.)

use std::sync::LazyLock;

use jsonschema::Validator;
use local_daemon_spec::schemas;
use serde_json::{Map, Value, json};

use crate::Seed;
use crate::conformance::manifest::Manifest;

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let text = schemas::get("manifest").expect("the specification has it");
    let schema = serde_json::from_str(text).expect("it is JSON");
    jsonschema::validator_for(&schema).expect("it is a schema")
});

/// Reads a text as a manifest.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let read = Manifest::parse(text, "manifest.toml");
    let Ok(table) = text.parse::<toml::Table>() else {
        assert!(read.is_err());
        return;
    };
    let is_valid = SCHEMA.is_valid(&json(&toml::Value::Table(table)));
    assert!(read.is_ok() || !is_valid, "the schema takes it: {:?}", read.err());
    if let Ok(read) = read {
        let written = toml::to_string(&read).expect("a manifest is TOML");
        let again = Manifest::parse(&written, "written.toml").expect("it is read as it was written");
        assert_eq!(json!(read), json!(again));
    }
}

/// The same as JSON. What JSON has not, a date or any fraction, no key of a manifest takes either.
fn json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => json!(text),
        toml::Value::Integer(number) => json!(number),
        toml::Value::Boolean(is_so) => json!(is_so),
        toml::Value::Float(_) | toml::Value::Datetime(_) => json!(0.5),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(members) => {
            let members = members.iter().map(|(name, value)| (name.clone(), json(value)));
            Value::Object(members.collect::<Map<_, _>>())
        }
    }
}

/// The manifests of the suite, its template, and that with every line in force.
pub fn seeds() -> Vec<Seed> {
    macro_rules! manifests {
        ($($name:literal),*) => {
            [$(($name, include_str!(concat!("../../conformance/subjects/", $name, ".toml")))),*]
        };
    }
    let subjects = manifests![
        "locald",
        "independent",
        "javascript",
        "jupyter_server",
        "opencode",
        "syncthing",
        "null"
    ];
    let template = include_str!("../../conformance/src/template.toml");
    let whole: Vec<&str> = template
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .filter(|line| !line.starts_with('#'))
        .collect();
    let mut seeds: Vec<Seed> = subjects.map(|(name, text)| (name.to_owned(), text.into())).into();
    seeds.push(("template".to_owned(), template.into()));
    seeds.push(("template-in-force".to_owned(), whole.join("\n").into()));
    seeds
}
