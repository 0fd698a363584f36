//! The faults of the notes, chapter 18.

use serde_json::{Value, json};

use crate::fault::{Fault, broken, fault};
use crate::streams::TOPICS;

pub(crate) const FAULTS: &[Fault] = &[
    fault("STR-7.floats", "reads a note's numbers as floats"),
    fault("STR-7.cleaned", "takes line ends and zeros out of a note"),
    fault("STR-7.raw-lines", "puts a note on the wire as it came, line ends included"),
    fault("STR-7.large-dropped", "accepts a long note and drops it"),
    fault("STR-7.null-dropped", "takes a note of null for none"),
    fault("STR-7.twice", "appends a note again for the one who posted it"),
    fault("STR-7.number-alone", "answers with the number without its epoch"),
    fault("STR-8.megabyte", "takes notes up to the limit of any other body"),
    fault("STR-8.announced-alone", "believes the announced length, and that there is one"),
    fault("STR-8.data-alone", "counts the data and not the body"),
    fault("STR-8.appended", "refuses a note that it has cut and appended"),
    fault("STR-9.any-topic", "lets clients post to every topic"),
    fault("STR-9.any-case", "takes the topic in any case"),
    fault("STR-9.no-data", "takes a note without data for one of null"),
    fault("STR-9.no-topic", "takes note for the default topic"),
    fault("STR-9.list", "reads the members from a list too"),
    fault("STR-9.first-value", "reads the first value of the body and ignores the rest"),
    fault("STR-9.appended", "appends a note that it refuses"),
    fault("STR-31.unread", "keeps a note as it came, without a look into it"),
    fault("STR-31.any-depth", "counts no levels"),
    fault("STR-31.fewer-levels", "counts the levels from 0 and refuses the 64th"),
    fault("STR-31.half-pairs", "takes half of a surrogate pair for a character"),
    fault("STR-31.any-number", "does not look at the size of numbers"),
    fault("STR-31.last-of-two", "keeps an object with two equal keys"),
    fault("STR-31.keys-as-written", "compares keys with their escapes"),
];

/// The topic in the log by which a faulty daemon takes what is not a note.
pub(crate) fn foreign_topic(topic: &str) -> Option<&'static str> {
    let lower = topic.to_ascii_lowercase();
    let known = TOPICS.iter().find(|known| **known == lower).copied();
    known.filter(|_| broken("STR-9.any-topic") || broken("STR-9.any-case") && lower == "note")
}

/// What a faulty daemon makes of a body before it reads it.
pub(crate) fn lenient_note(body: &[u8]) -> Option<Vec<u8>> {
    let value = || serde_json::from_slice::<Value>(body).ok();
    if broken("STR-9.no-data") {
        let mut value = value().filter(|value| value.is_object() && value.get("data").is_none())?;
        value["data"] = Value::Null;
        return Some(value.to_string().into());
    }
    if broken("STR-9.first-value") {
        let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
        return Some(values.next()?.ok()?.to_string().into());
    }
    if broken("STR-9.no-topic") {
        let mut value = value().filter(|value| value.is_object() && value.get("topic").is_none())?;
        value["topic"] = json!("note");
        return Some(value.to_string().into());
    }
    None
}
