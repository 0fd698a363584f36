//! The `OpenAPI` document with its schemas inside, for tools that follow no reference to another file.

use serde_json::{Map, Value, json};

use crate::documents::{OPENAPI, OPENAPI_BUNDLE, schemas};

/// Returns the document with every schema that it refers to among its own components, under its title. The definitions of a
/// schema become components too, for some tools find nothing below one.
///
/// # Panics
///
/// Panics if a reference leads nowhere, or if two schemas have one name; the files are compiled in.
pub fn bundle() -> Value {
    let mut document: Value = serde_json::from_str(OPENAPI).expect("openapi.json is JSON");
    let mut components = Map::new();
    lead_inside(&mut document, &mut |reference| {
        let name = reference.strip_prefix("schemas/").and_then(|file| file.strip_suffix(".schema.json"))?;
        Some(inside(&include(name, &mut components)))
    });
    let known = document["components"]["schemas"].as_object_mut().expect("the document has components");
    for (name, schema) in components {
        assert!(known.insert(name, schema).is_none(), "two schemas have one name");
    }
    document
}

/// Whether the bundle on disk is the one of the other files.
pub(crate) fn is_current() -> bool {
    serde_json::from_str::<Value>(OPENAPI_BUNDLE).is_ok_and(|known| known == bundle())
}

/// Adds a schema and its definitions to the components, and returns its name.
fn include(file: &str, components: &mut Map<String, Value>) -> String {
    let text = schemas::get(file).unwrap_or_else(|| panic!("no schema {file}"));
    let mut schema: Value = serde_json::from_str(text).expect("a schema is JSON");
    let title = schema["title"].as_str().expect("a schema has a title").replace(' ', "");
    if components.contains_key(&title) {
        return title;
    }
    let members = schema.as_object_mut().expect("a schema is an object");
    // The document has a dialect and a base of its own.
    members.remove("$schema");
    members.remove("$id");
    let definitions = members.remove("$defs").unwrap_or(json!({}));
    let definitions = definitions.as_object().cloned().unwrap_or_default();
    let name_of = |definition: &str| {
        let (first, rest) = definition.split_at(1);
        format!("{title}{}{rest}", first.to_uppercase())
    };
    let mut settle = |name: String, mut schema: Value| {
        lead_inside(&mut schema, &mut |reference| {
            Some(inside(&name_of(reference.strip_prefix("#/$defs/")?)))
        });
        components.insert(name, schema);
    };
    for (definition, schema) in definitions {
        settle(name_of(&definition), schema);
    }
    settle(title.clone(), schema);
    title
}

fn inside(name: &str) -> String {
    format!("#/components/schemas/{name}")
}

/// Replaces every reference by what `lead` makes of it, if anything.
fn lead_inside(value: &mut Value, lead: &mut impl FnMut(&str) -> Option<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(led) = lead(reference)
            {
                *reference = led;
            }
            members.values_mut().for_each(|value| lead_inside(value, lead));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| lead_inside(value, lead)),
        _ => {}
    }
}
