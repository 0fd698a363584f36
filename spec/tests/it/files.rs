//! The lists in the code are the files on disk, and the files are what they claim to be.

use std::collections::BTreeSet;
use std::path::Path;

use local_daemon_spec::{chapters, check, documents, schemas, vectors};

fn listed_as_on_disk(folder: &str, extension: &str, all: &[(&str, &str)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(path).expect("the folder is part of the package");
    let names = entries.map(|entry| entry.expect("the folder can be read").file_name());
    let on_disk: BTreeSet<String> = names
        .filter_map(|name| name.to_str().and_then(|name| name.strip_suffix(extension)).map(str::to_owned))
        .collect();
    let listed: BTreeSet<String> = all.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(listed, on_disk, "the list in src/documents.rs is not what {folder} holds");
    assert_eq!(listed.len(), all.len(), "{folder}: a name is listed twice");
}

#[test]
fn every_chapter_is_listed() {
    listed_as_on_disk("chapters", ".md", chapters::ALL);
}

#[test]
fn every_schema_is_listed() {
    listed_as_on_disk("schemas", ".schema.json", schemas::ALL);
}

#[test]
fn every_vector_file_is_listed() {
    listed_as_on_disk("vectors", ".json", vectors::ALL);
}

#[test]
fn every_file_passes_the_check() {
    let findings: Vec<String> = check().iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

/// Every reference of the `OpenAPI` document, wherever it stands.
fn references(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(members) => {
            found.extend(members.get("$ref").and_then(|to| to.as_str()).map(str::to_owned));
            members.values().for_each(|value| references(value, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn openapi_document_refers_to_what_is_there_and_uses_all_that_it_has() {
    let document: serde_json::Value = serde_json::from_str(documents::OPENAPI).unwrap();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        let is_there = match reference.strip_prefix('#') {
            Some(pointer) => document.pointer(pointer).is_some(),
            None => schemas::ALL.iter().any(|(name, _)| *reference == format!("schemas/{name}.schema.json")),
        };
        assert!(is_there, "{reference} leads nowhere");
    }
    for kind in ["responses", "schemas"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(found.contains(&format!("#/components/{kind}/{name}")), "nobody refers to {name}");
        }
    }
}

#[test]
fn bundle_refers_to_nothing_outside_and_lacks_nothing() {
    let (document, bundle): (serde_json::Value, serde_json::Value) = (
        serde_json::from_str(documents::OPENAPI).unwrap(),
        serde_json::from_str(documents::OPENAPI_BUNDLE).unwrap(),
    );
    assert_eq!(bundle, local_daemon_spec::bundle(), "`cargo run -p local-daemon-spec -- bundle` prints it");
    let mut found = BTreeSet::new();
    references(&bundle, &mut found);
    for reference in &found {
        let place = reference.strip_prefix('#').expect(reference);
        assert!(place.matches('/').count() == 3 && bundle.pointer(place).is_some(), "{reference}");
    }
    let operations = |document: &serde_json::Value| {
        let paths = document["paths"].as_object().unwrap().iter();
        paths
            .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |key| format!("{key} {path}")))
            .collect::<Vec<_>>()
    };
    assert_eq!(operations(&bundle), operations(&document));
    // A schema and one of its definitions are what they were.
    let event = &bundle["components"]["schemas"]["Event"];
    assert_eq!(event["oneOf"][0]["properties"]["data"]["$ref"], "#/components/schemas/EventLifecycle");
    assert_eq!(bundle["components"]["schemas"]["EventLifecycle"]["required"], serde_json::json!(["what"]));
}

#[test]
fn every_schema_is_a_draft_2020_12_schema() {
    for (name, text) in schemas::ALL {
        let schema: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("{name}: {error}"));
        jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
