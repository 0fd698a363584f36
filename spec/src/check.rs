//! What must hold of the files besides the grammar of the chapters.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use crate::bundle;
use crate::catalogue::Catalogue;
use crate::documents::{chapters, schemas, vectors};

/// A fault in one of the specification's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file below `spec/`, with the line where one is known.
    pub place: String,
    /// What is wrong, for a person.
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Checks every chapter, schema and vector file of this package, and that the bundle of the `OpenAPI` document is current.
pub fn check() -> Vec<Finding> {
    let mut findings = Vec::new();
    let catalogue = match Catalogue::parse(chapters::ALL) {
        Ok(catalogue) => Some(catalogue),
        Err(faults) => {
            findings.extend(faults.into_iter().map(|fault| Finding {
                place: format!("chapters/{}.md:{}", fault.chapter, fault.line),
                message: fault.kind.to_string(),
            }));
            None
        }
    };
    for (name, text) in schemas::ALL {
        findings.extend(located(&format!("schemas/{name}.schema.json"), check_schema(text)));
    }
    for (name, text) in vectors::ALL {
        findings.extend(located(&format!("vectors/{name}.json"), check_vectors(text, catalogue.as_ref())));
    }
    if !bundle::is_current() {
        let message = "is not what `cargo run -p local-daemon-spec -- bundle` prints".to_owned();
        findings.extend(located("openapi.bundle.json", vec![message]));
    }
    findings
}

fn located(place: &str, messages: Vec<String>) -> impl Iterator<Item = Finding> {
    messages.into_iter().map(move |message| Finding { place: place.to_owned(), message })
}

/// What is wrong with a schema file: it must be a JSON object with `$id` and `title`. (That it is a schema is for a
/// schema library to say.)
pub fn check_schema(text: &str) -> Vec<String> {
    let schema: Value = match serde_json::from_str(text) {
        Ok(schema) => schema,
        Err(error) => return vec![format!("is not JSON: {error}")],
    };
    ["$id", "title"]
        .into_iter()
        .filter(|key| !is_text(&schema[*key]))
        .map(|key| format!("has no `{key}`"))
        .collect()
}

/// What is wrong with a vector file: `about`, and cases that each have a `name` of their own, `accept`, `why` and the
/// `requirements` they come from. Without a catalogue the ids are not looked up.
pub fn check_vectors(text: &str, catalogue: Option<&Catalogue>) -> Vec<String> {
    let file: Value = match serde_json::from_str(text) {
        Ok(file) => file,
        Err(error) => return vec![format!("is not JSON: {error}")],
    };
    let mut messages = Vec::new();
    if !is_text(&file["about"]) {
        messages.push("has no `about`".to_owned());
    }
    let cases = file["cases"].as_array().map(Vec::as_slice).unwrap_or_default();
    if cases.is_empty() {
        messages.push("has no `cases`".to_owned());
    }
    let mut names = BTreeSet::new();
    for (at, case) in cases.iter().enumerate() {
        let name = case["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            messages.push(format!("case {at} has no `name`"));
        } else if !names.insert(name) {
            messages.push(format!("two cases are named `{name}`"));
        }
        if !case["accept"].is_boolean() {
            messages.push(format!("case {at} (`{name}`): `accept` is not true or false"));
        }
        if !is_text(&case["why"]) {
            messages.push(format!("case {at} (`{name}`) has no `why`"));
        }
        let ids = case["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
        if ids.is_empty() {
            messages.push(format!("case {at} (`{name}`) names no requirement"));
        }
        for id in ids {
            let known = match (id.as_str(), catalogue) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(id), Some(catalogue)) => catalogue.get(id).is_some(),
            };
            if !known {
                messages.push(format!("case {at} (`{name}`): there is no requirement {id}"));
            }
        }
    }
    messages
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn catalogue() -> Catalogue {
        Catalogue::parse(&[("05-publish", "# T\n\n- **PUB-1** `daemon` `core` It MAY be.\n")]).unwrap()
    }

    #[test]
    fn a_schema_needs_an_id_and_a_title() {
        assert_eq!(check_schema(r#"{"$id": "urn:x", "title": "X"}"#), Vec::<String>::new());
        assert_eq!(check_schema(r#"{"$id": " "}"#), ["has no `$id`", "has no `title`"]);
        assert!(check_schema("{")[0].starts_with("is not JSON"));
    }

    #[test]
    fn each_fault_of_a_vector_file_is_named() {
        let good = json!({"about": "a", "cases": [
            {"name": "n", "accept": true, "why": "w", "requirements": ["PUB-1"]},
        ]});
        let messages = |change: fn(&mut Value)| {
            let mut file = good.clone();
            change(&mut file);
            check_vectors(&file.to_string(), Some(&catalogue())).join("; ")
        };
        assert_eq!(messages(|_| {}), "");
        assert_eq!(messages(|file| file["about"] = json!("")), "has no `about`");
        assert_eq!(messages(|file| file["cases"] = json!([])), "has no `cases`");
        assert_eq!(messages(|file| file["cases"][0]["name"] = json!(null)), "case 0 has no `name`");
        assert_eq!(
            messages(|file| {
                let first = file["cases"][0].clone();
                file["cases"].as_array_mut().unwrap().push(first);
            }),
            "two cases are named `n`"
        );
        assert_eq!(
            messages(|file| file["cases"][0]["accept"] = json!("yes")),
            "case 0 (`n`): `accept` is not true or false"
        );
        assert_eq!(messages(|file| file["cases"][0]["why"] = json!("")), "case 0 (`n`) has no `why`");
        assert_eq!(
            messages(|file| file["cases"][0]["requirements"] = json!([])),
            "case 0 (`n`) names no requirement"
        );
        assert_eq!(
            messages(|file| file["cases"][0]["requirements"] = json!(["PUB-2", 3])),
            "case 0 (`n`): there is no requirement \"PUB-2\"; case 0 (`n`): there is no requirement 3"
        );
        assert!(check_vectors("[", None)[0].starts_with("is not JSON"));
    }
}
