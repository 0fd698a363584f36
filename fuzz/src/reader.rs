//! The client's reader of event streams: wherever the bytes are cut, it returns what the frames say that the suite's reader finds.

use std::fmt;
use std::time::Instant;

use local_daemon::events::{Item, Reader, StreamError};
use local_daemon_harness::sse::{Frame, Parser};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::Seed;

/// The first byte is how many bytes come at once, the others are the stream.
pub fn run(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else {
        return;
    };
    let mut reader = Reader::new(None);
    let mut seen = Vec::new();
    'stream: for piece in stream.chunks(usize::from(*size).max(1)) {
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Some(item)) => seen.push(words(&item)),
                Ok(None) => break,
                Err(error) => {
                    seen.push(format!("Err {error:?}"));
                    break 'stream;
                }
            }
        }
    }
    let (expected, after) = expected(stream);
    assert_eq!(seen, expected);
    if !expected.last().is_some_and(|last| last.starts_with("Err")) {
        assert_eq!(reader.after().map(|id| id.to_string()), after);
    }
}

fn words(item: &Item) -> String {
    match item {
        Item::Event(event) => format!("{} {} {} {}", event.id, event.topic, event.at, event.data),
        Item::Gap { first, after } => format!("gap {first} {:?}", after.map(|id| id.to_string())),
        Item::Superseded { successor } => format!("superseded {}", successor.is_some()),
        Item::Shutdown => "shutdown".to_owned(),
        other => panic!("{other:?} is not expected"),
    }
}

/// What the frames of a stream say, up to the first error, and after which event the next stream goes on.
fn expected(stream: &[u8]) -> (Vec<String>, Option<String>) {
    let (mut said, mut after) = (Vec::new(), None);
    for frame in Parser::default().feed(stream, Instant::now()).iter().filter(|frame| !frame.is_comment()) {
        match item(frame, &mut after) {
            Ok(item) => said.extend(item),
            Err(error) => {
                said.push(format!("Err {error:?}"));
                break;
            }
        }
    }
    (said, after)
}

fn item(frame: &Frame, after: &mut Option<String>) -> Result<Option<String>, StreamError> {
    let id = frame.id().filter(|id| !id.is_empty()).map(canonical).transpose()?;
    let Some(data) = frame.data() else {
        *after = id.or(after.take());
        return Ok(None);
    };
    let members = members(&data)?;
    let (topic, at) = (text(&members, "topic")?, text(&members, "at")?);
    let inner = only(&members, "data")?.ok_or(StreamError::Data)?;
    Ok(Some(match frame.event().unwrap_or_default() {
        "gap" => {
            let first = canonical(&text(&self::members(inner)?, "first")?)?;
            let (epoch, seq) = first.split_once('-').expect("an id has a hyphen");
            let before = format!("{epoch}-{}", seq.parse::<u64>().expect("it is a number").saturating_sub(1));
            format!("gap {first} {:?}", after.replace(before))
        }
        "superseded" => {
            let members = self::members(inner)?;
            let successor = match only(&members, "successor")? {
                None | Some("null") => None,
                Some(_) => Some(text(&members, "successor")?),
            };
            let is_id = |id: &String| id.len() == 32 && id.bytes().all(is_digit);
            format!("superseded {}", successor.is_some_and(|id| is_id(&id)))
        }
        "shutdown" => "shutdown".to_owned(),
        _ => {
            let id = id.ok_or(StreamError::Id)?;
            *after = Some(id.clone());
            format!("{id} {topic} {at} {inner}")
        }
    }))
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The id that a text is, with the largest number in place of one that cannot be counted.
fn canonical(text: &str) -> Result<String, StreamError> {
    let (epoch, seq) = text.split_once('-').ok_or(StreamError::Id)?;
    let is_number = seq.bytes().all(|byte| byte.is_ascii_digit()) && (seq == "0" || !seq.starts_with('0'));
    if epoch.len() != 8 || !epoch.bytes().all(is_digit) || seq.is_empty() || !is_number {
        return Err(StreamError::Id);
    }
    Ok(format!("{epoch}-{}", seq.parse().unwrap_or(u64::MAX)))
}

/// The members of a JSON object, in their order and as often as they are there, each with its text.
struct Members(Vec<(String, Box<serde_json::value::RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Each)
    }
}

fn members(text: &str) -> Result<Members, StreamError> {
    serde_json::from_str(text).map_err(|_| StreamError::Data)
}

/// The text of a member that is there at most once.
fn only<'a>(members: &'a Members, name: &str) -> Result<Option<&'a str>, StreamError> {
    let mut found = members.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.get());
    let first = found.next();
    if found.next().is_some() { Err(StreamError::Data) } else { Ok(first) }
}

fn text(members: &Members, name: &str) -> Result<String, StreamError> {
    let value = only(members, name)?.ok_or(StreamError::Data)?;
    match serde_json::from_str(value) {
        Ok(Value::String(text)) => Ok(text),
        _ => Err(StreamError::Data),
    }
}

/// What daemons send, and what they may not.
pub fn seeds() -> Vec<Seed> {
    let event = |id: &str, data: &str| {
        format!("id: {id}\nevent: n\ndata: {{\"topic\":\"n\",\"at\":\"t\",\"data\":{data}}}\n\n")
    };
    let last = |event: &str, data: &str| {
        format!("event: {event}\ndata: {{\"topic\":\"{event}\",\"at\":\"t\",\"data\":{data}}}\n\n")
    };
    let [one, two] = [
        event("0000000a-4", "1"),
        event("0000000a-5", "{\"x\":[\"\u{fc}\"]}"),
    ];
    [
        ("stream", ["retry: 500\n\nid: 0000000a-3\n\n", &one, ":\n\n", &two].concat()),
        (
            "gap",
            [
                one.clone(),
                last("gap", "{\"first\":\"0000000b-1\",\"after\":\"0000000a-4\"}"),
                two,
            ]
            .concat(),
        ),
        ("superseded", last("superseded", "{\"successor\":\"5f0c2a9b00000000000000000000000a\"}")),
        ("superseded-by-none", last("superseded", "{\"successor\":null}")),
        ("shutdown", one.replace('\n', "\r\n") + &last("shutdown", "null")),
        ("data-in-lines", one.replace(",\"at\"", ",\ndata: \"at\"")),
        ("a-list", one.replace("{\"topic\":\"n\",\"at\":\"t\",\"data\":1}", "[\"n\",\"t\",1]")),
        ("twice", one.replace("\"at\"", "\"topic\":\"m\",\"at\"")),
        ("no-id", one.replace("id: 0000000a-4\n", "")),
        ("begins-with-a-mark", ["\u{feff}", &one].concat()),
    ]
    .map(|(name, text)| (name.to_owned(), [&[7], text.as_bytes()].concat()))
    .into()
}
