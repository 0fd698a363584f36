//! The lists in the code are the files on disk, and the files are what they claim to be.

use std::collections::BTreeSet;
use std::path::Path;

use local_daemon_spec::{chapters, check, schemas, vectors};

fn listed_as_on_disk(folder: &str, extension: &str, all: &[(&str, &str)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(path).expect("the folder is part of the package");
    let names = entries.map(|entry| entry.expect("the folder can be read").file_name());
    let on_disk: BTreeSet<String> = names
        .filter_map(|name| {
            name.to_str()
                .and_then(|name| name.strip_suffix(extension))
                .map(str::to_owned)
        })
        .collect();
    let listed: BTreeSet<String> = all.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        listed, on_disk,
        "the list in src/documents.rs is not what {folder} holds"
    );
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

#[test]
fn every_schema_is_a_draft_2020_12_schema() {
    for (name, text) in schemas::ALL {
        let schema: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            schema["$schema"], "https://json-schema.org/draft/2020-12/schema",
            "{name}"
        );
        jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("{name}: {error}"));
        jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
