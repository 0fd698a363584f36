//! Chapter 18: notes that clients leave for each other.

mod alike;
pub(crate) mod faults;

use serde_json::value::RawValue;
use serde_json::{Value, json};

pub(crate) use self::alike::is_read_alike;
use crate::answer::{Answer, DRAINING, INVALID, Refusal, TOO_LARGE};
use crate::fault::broken;
use crate::state::{Daemon, Log};

/// The longest body of a note, in bytes.
pub(super) const MOST: usize = 64 * 1024;

/// Appends what a client leaves for the others, and returns the answer.
pub(crate) fn note(daemon: &Daemon, body: &[u8]) -> Result<Answer, Refusal> {
    #[derive(serde::Deserialize)]
    struct Note<'a> {
        topic: String,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let lenient = faults::lenient_note(body);
    let body = lenient.as_deref().unwrap_or(body);
    let note: Note = match serde_json::from_slice(body) {
        Ok(note) => note,
        Err(_) if broken("CRED-9.body-repeated") => {
            return Ok(Answer::problem(INVALID, &json!({"detail": String::from_utf8_lossy(body)})));
        }
        Err(_) => return Err(INVALID),
    };
    // A struct may be read from an array as well.
    if note.topic != "note" || !(body.trim_ascii_start().starts_with(b"{") || broken("STR-9.list")) {
        if broken("STR-9.appended") {
            daemon.log.append_text("note", note.data.get());
        }
        if let Some(topic) = faults::foreign_topic(&note.topic) {
            let id = daemon.log.append_text(topic, note.data.get());
            return Ok(Answer::json(201, &json!({"id": id})));
        }
        return Err(INVALID);
    }
    if !std::str::from_utf8(body).is_ok_and(is_read_alike) {
        return Err(INVALID);
    }
    let length = if broken("STR-8.data-alone") { note.data.get().len() } else { body.len() };
    if length > MOST && !broken("STR-8.megabyte") && !broken("STR-8.announced-alone") {
        if broken("STR-8.appended") {
            daemon.log.append_text("note", "\"too long\"");
        }
        return Err(TOO_LARGE);
    }
    if daemon.standing_down().is_some() && !broken("CONV-10.goes-on") {
        return Err(DRAINING);
    }
    let id = append_note(&daemon.log, note.data.get());
    Ok(Answer::json(201, &json!({"id": id})))
}

/// Appends a note and returns the id that is answered.
fn append_note(log: &Log, data: &str) -> String {
    let last = || log.last_id();
    if broken("STR-7.large-dropped") && data.len() > 32 * 1024
        || broken("STR-7.null-dropped") && data == "null"
    {
        return last();
    }
    if broken("STR-7.floats") {
        fn floats(value: &mut Value) {
            match value {
                Value::Number(number) => *value = json!(number.as_f64()),
                Value::Array(list) => list.iter_mut().for_each(floats),
                Value::Object(members) => members.values_mut().for_each(floats),
                _ => {}
            }
        }
        let mut value: Value = serde_json::from_str(data).unwrap_or_default();
        floats(&mut value);
        return log.append("note", &value);
    }
    if broken("STR-7.cleaned") {
        return log.append_text("note", &data.replace("\\n", " ").replace("\\u0000", ""));
    }
    let id = log.append_text("note", data);
    if broken("STR-7.twice") {
        log.append_text("note", data);
    }
    if broken("STR-7.number-alone") {
        return id.rsplit('-').next().unwrap_or_default().to_owned();
    }
    id
}
