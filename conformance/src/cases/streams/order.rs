//! Which event is which, and in which order they come.

use std::time::Instant;

use local_daemon_harness::process::Signal;
use serde_json::Value;

use crate::case::case;
use crate::fixtures::daemon::signal;
use crate::fixtures::stream::{
    ABOUT, Event, LOGGED, Poster, SEEN, break_in, brief, epoch, follow, seqs, settled, split, to_the_end,
    until,
};
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive};
use crate::stage::Stage;

/// The ids of two launches, in answers and on streams, begin with the first 8 digits of the launch's id.
#[case("STR-10")]
fn ids_are_epoch_and_number(stage: &mut Stage) -> Outcome {
    stage.expect(
        "the first 8 digits of the daemon's id, a hyphen and a number, on the streams and in the answers",
    );
    for _ in 0..2 {
        let (daemon, live) = settled(stage)?;
        let mut poster = Poster::new(&live)?;
        let mut posted = Vec::new();
        for n in 0..12 {
            posted.push(poster.note(&n.to_string())?);
        }
        let right = |id: &str| split(id).is_some_and(|(of, _)| of == epoch(&live));
        for id in &posted {
            ensure!(right(id), "a note of the daemon {} was answered {id}", live.record.id);
        }
        let last = &posted[posted.len() - 1];
        let mut stream = live.stream_from_the_beginning("")?;
        for event in until(&mut stream, last)? {
            let holds = ABOUT.contains(&&*event.name) || event.id.as_deref().is_some_and(right);
            ensure!(holds, "of the daemon {}: {}", live.record.id, event.brief());
        }
        stage.observed(format!("{}: {} to {last}", live.record.id, posted[0]));
        daemon.kill_group();
    }
    Ok(())
}

/// A log is read from its beginning, at two launches in one state directory: 1, 2, 3; a stream of one topic
/// leaves numbers out and renumbers nothing.
#[case("STR-11")]
fn numbers_begin_at_one(stage: &mut Stage) -> Outcome {
    stage.expect("1, 2, 3 and so on, at each launch; with `topics` the same numbers, some left out");
    for launch in ["first", "second"] {
        let (daemon, live) = settled(stage)?;
        let mut poster = Poster::new(&live)?;
        let last = poster.notes(30)?;
        let mut stream = live.stream_from_the_beginning("")?;
        let events = until(&mut stream, &last)?;
        let all = seqs(&live, &events)?;
        let notes = events.iter().filter(|event| event.name == "note");
        let notes_of_all: Vec<u64> = notes.filter_map(Event::seq).collect();
        stage.observed(format!("{launch} launch: {}", brief(&events)));
        if let Some(why) = break_in(&all, 1) {
            return fail(format!("{launch} launch: {why}: {all:?}"));
        }
        let mut notes = live.stream_from_the_beginning("&topics=note")?;
        let events = until(&mut notes, &last)?;
        let left: Vec<u64> = seqs(&live, &events)?;
        ensure!(left == notes_of_all, "{launch} launch, of the topic note: {left:?} of {all:?}");
        daemon.kill_group();
    }
    Ok(())
}

/// Four clients post at once while streams are open and others are opened: on each the numbers rise, and what
/// one client posted keeps its order.
#[case("STR-12")]
fn in_order_and_none_twice(stage: &mut Stage) -> Outcome {
    const WRITERS: u64 = 4;
    const EACH: u64 = 40;
    let (_daemon, live) = settled(stage)?;
    let mut streams = [
        live.open_stream("")?,
        live.open_stream("?topics=note")?,
        live.stream_from_the_beginning("")?,
    ];
    let mut posters = Vec::new();
    for _ in 0..WRITERS {
        posters.push(Poster::new(&live)?);
    }
    stage.expect(
        "rising numbers, none twice, while four clients post at once and streams are opened meanwhile",
    );
    let writers: Vec<_> = posters
        .into_iter()
        .zip(1..)
        .map(|(mut poster, writer)| {
            std::thread::spawn(move || {
                (0..EACH).try_for_each(|n| poster.try_note(&format!("[{writer},{n}]")).map(drop))
            })
        })
        .collect();
    let mut late = Vec::new();
    while writers.iter().any(|writer| !writer.is_finished()) {
        late.push(live.stream_from_the_beginning("&topics=note")?);
        let seen = follow(&mut streams[0], Instant::now() + SEEN, |event| event.name == "note");
        if !seen.found {
            break;
        }
    }
    for writer in writers {
        if let Ok(Err(why)) = writer.join() {
            return inconclusive(format!("a good note: {why}"));
        }
    }
    let marker = Poster::new(&live)?.note("\"the last\"")?;
    late.truncate(20);
    // One that has everything before it, and gets it in as few pieces as the daemon likes.
    late.push(live.stream_from_the_beginning("")?);
    stage.observed(format!("{} streams, {} notes", 3 + late.len(), WRITERS * EACH));
    // The first was read a little before.
    for (place, stream) in streams.iter_mut().chain(&mut late).enumerate() {
        let events = until(stream, &marker)?;
        let all = seqs(&live, &events)?;
        if let Some([one, next]) = all.array_windows().find(|[one, next]| one >= next) {
            return fail(format!("stream {place}: {next} after {one}"));
        }
        // What one client posted, one after the other, stays in that order.
        for writer in 1..=WRITERS {
            let of = events.iter().filter(|event| event.payload()[0] == writer);
            let numbers: Vec<Option<u64>> = of.map(|event| event.payload()[1].as_u64()).collect();
            ensure!(numbers.is_sorted(), "stream {place}: the notes of one client come as {numbers:?}");
        }
    }
    Ok(())
}

/// The same events are read at once, by topic, resumed and from the beginning, and compared whole.
#[case("STR-13")]
fn the_same_on_every_stream(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    stage.expect("the same id, event and data at once, with other topics, and resumed later");
    let mut at_once = live.open_stream("")?;
    let mut chosen = live.open_stream("?topics=note,lifecycle")?;
    let first = poster.note("\"first\"")?;
    let last = poster.notes(10)?;
    let same = |event: &Event| (event.id.clone(), event.name.clone(), event.data.clone());
    let expected: Vec<_> = until(&mut at_once, &last)?.iter().map(same).collect();
    // `at` is a part of the data, and says when it happened, not when it was sent.
    let header = [("Last-Event-ID", first.as_str())];
    let mut resumed = live.resume_stream("", &header)?;
    let mut beginning = live.stream_from_the_beginning("")?;
    let mut again = live.stream_from_the_beginning("&topics=note")?;
    for (what, stream) in [
        ("of two topics", &mut chosen),
        ("resumed", &mut resumed),
        ("from the beginning", &mut beginning),
        ("of one topic, from the beginning", &mut again),
    ] {
        let events = until(stream, &last)?;
        let events: Vec<_> = events.iter().map(same).collect();
        let other = events.iter().find(|event| {
            let known = expected.iter().find(|known| known.0 == event.0);
            known.is_some_and(|known| known != *event)
        });
        let shared = events.iter().filter(|event| expected.iter().any(|known| known.0 == event.0)).count();
        if let Some(other) = other {
            return fail(format!("a stream {what}: {other:?} is another at once"));
        }
        ensure!(shared >= 10, "a stream {what} shares {shared} events");
    }
    Ok(())
}

/// What `data` of an event violates of `events.schema.json`.
pub(super) fn invalid(event: &Event) -> Option<&'static str> {
    let data = &event.data;
    let text = |value: &Value| value.as_str().is_some();
    let word = |value: &Value, words: &[&str]| value.as_str().is_some_and(|value| words.contains(&value));
    let topic = data["topic"].as_str()?;
    let payload = &data["data"];
    if !data.is_object() {
        return Some("no object");
    }
    if !LOGGED.contains(&topic) && !ABOUT.contains(&topic) {
        return Some("an unknown topic");
    }
    if !data["at"].as_str().is_some_and(is_time) {
        return Some("no time");
    }
    if data.get("data").is_none() {
        return Some("no data");
    }
    let right = match topic {
        "lifecycle" => {
            const REASONS: [&str; 6] = [
                "displaced",
                "record-removed",
                "directory-removed",
                "requested",
                "signal",
                "idle",
            ];
            word(&payload["what"], &["ready", "draining", "reloaded", "credential-rotated"])
                && payload.get("reason").is_none_or(|reason| word(reason, &REASONS))
        }
        "warning" => text(&payload["code"]) && text(&payload["message"]),
        "origins" => word(&payload["what"], &["added", "removed"]) && text(&payload["origin"]),
        "sessions" => {
            let words = ["created", "reattached", "exited", "lost", "removed"];
            word(&payload["what"], &words) && text(&payload["id"])
        }
        "proxies" => {
            let words = [
                "created",
                "replaced",
                "rotated",
                "target-up",
                "target-down",
                "removed",
            ];
            word(&payload["what"], &words) && text(&payload["name"])
        }
        "gap" => payload["first"].as_str().and_then(split).is_some() && payload.get("after").is_none_or(text),
        "superseded" | "shutdown" => {
            let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let is_id = |id: &str| id.len() == 32 && id.bytes().all(hex);
            payload.is_object() && payload.get("successor").is_none_or(|id| id.as_str().is_some_and(is_id))
        }
        _ => true,
    };
    (!right).then_some("data of another form")
}

/// Whether a text is a time of RFC 3339 in UTC.
fn is_time(text: &str) -> bool {
    let Some(rest) = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")) else {
        return false;
    };
    let (whole, part) = rest.split_once('.').unwrap_or((rest, "0"));
    let shape: String = whole.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00" && !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// Every event that a daemon makes in its life, to its displacement and its stop, is judged by the schema;
/// its field is its topic.
#[case("STR-14")]
fn frames_say_what_they_are(stage: &mut Stage) -> Outcome {
    let (daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    stage.expect("the `event` field is the `topic` in the data, and the data fit the schema");
    let last = poster.notes(3)?;
    let mut beginning = live.stream_from_the_beginning("")?;
    let mut lost = live.open_stream("?after=00000000-7")?;
    let mut events = until(&mut beginning, &last)?;
    events.extend(until(&mut lost, &last)?);
    let successor = stage.launch()?;
    let deadline = stage.stand_down_deadline() + SEEN;
    events.extend(to_the_end(&mut beginning, deadline).events);
    drop(daemon);
    let live = stage.ready(&successor)?;
    let mut stream = live.open_stream("")?;
    signal(&successor, Signal::TERM)?;
    events.extend(to_the_end(&mut stream, Instant::now() + SEEN).events);
    let topics: std::collections::BTreeSet<&str> = events.iter().map(|event| &*event.name).collect();
    stage.observed(format!("events of {topics:?}"));
    for event in &events {
        ensure!(
            event.data["topic"].as_str() == Some(&event.name),
            "the event {} says the topic {}",
            event.name,
            event.data["topic"]
        );
        if let Some(why) = invalid(event) {
            return fail(format!("{why}: {} {}", event.name, event.data));
        }
    }
    if topics.contains("note") && topics.contains("gap") {
        Ok(())
    } else {
        Err(Stop::Inconclusive(format!("only {topics:?} were seen")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The hand-written judgement is the schema's, on what a daemon says and on what it must not.
    #[test]
    fn what_is_judged_by_hand_is_what_the_schema_says() {
        let schema = local_daemon_spec::schemas::ALL
            .iter()
            .find(|document| document.0.contains("events"))
            .unwrap();
        let schema: Value = serde_json::from_str(schema.1).unwrap();
        let schema = jsonschema::validator_for(&schema).unwrap();
        let at = "2026-11-20T09:00:00Z";
        for (topic, at, data, good) in [
            ("note", at, json!(null), true),
            ("note", "yesterday", json!(1), false),
            ("notes", at, json!(1), false),
            ("lifecycle", at, json!({"what": "ready"}), true),
            ("lifecycle", at, json!({"what": "draining", "reason": "signal"}), true),
            ("lifecycle", at, json!({"what": "draining", "reason": "bored"}), false),
            ("lifecycle", at, json!({"what": "begun"}), false),
            ("warning", at, json!({"code": "x", "message": "y"}), true),
            ("warning", at, json!({"code": "x"}), false),
            ("origins", at, json!({"what": "added", "origin": "x"}), true),
            ("origins", at, json!({"what": "gone", "origin": "x"}), false),
            ("sessions", at, json!({"what": "lost", "id": "x"}), true),
            ("sessions", at, json!({"what": "lost"}), false),
            ("proxies", at, json!({"what": "rotated", "name": "x"}), true),
            ("proxies", at, json!({"what": "rotated"}), false),
            ("gap", at, json!({"first": "0123abcd-1"}), true),
            ("gap", at, json!({"first": "0123abcd-0"}), false),
            ("gap", at, json!({}), false),
            ("superseded", at, json!({"successor": "0".repeat(32)}), true),
            ("superseded", at, json!({"successor": "0"}), false),
            ("shutdown", at, json!({}), true),
            ("shutdown", at, json!(null), false),
        ] {
            let data = json!({"topic": topic, "at": at, "data": data});
            let event = Event { id: None, name: topic.to_owned(), data: data.clone() };
            assert_eq!(invalid(&event).is_none(), good, "{data}");
            // Formats are annotations to a validator.
            assert!(schema.is_valid(&data) == good || data["at"] == "yesterday", "{data}");
        }
        assert!(id_is_split());
    }

    fn id_is_split() -> bool {
        split("0123abcd-12") == Some(("0123abcd", 12)) && split("0123abcd-0").is_none()
    }
}
