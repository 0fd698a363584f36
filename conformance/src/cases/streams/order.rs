//! Which event is which, and in which order they come.

use std::time::Instant;

use local_daemon_harness::process::Signal;
use serde_json::Value;

use crate::case::case;
use crate::fixtures::daemon::signal;
use crate::fixtures::stream::{
    ABOUT, Event, Poster, SEEN, break_in, brief, epoch, follow, seqs, settled, split, to_the_end, until,
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
        for _ in 0..12 {
            posted.push(poster.event()?);
        }
        let right = |id: &str| split(id).is_some_and(|(of, _)| of == epoch(&live));
        for id in &posted {
            ensure!(right(id), "an event of the daemon {} was answered with the id {id}", live.record.id);
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
    let topic = stage.topic()?;
    for launch in ["first", "second"] {
        let (daemon, live) = settled(stage)?;
        let mut poster = Poster::new(&live)?;
        let last = poster.events(30)?;
        let mut stream = live.stream_from_the_beginning("")?;
        let events = until(&mut stream, &last)?;
        let all = seqs(&live, &events)?;
        let of_topic = events.iter().filter(|event| event.name == topic);
        let of_topic: Vec<u64> = of_topic.filter_map(Event::seq).collect();
        stage.observed(format!("{launch} launch: {}", brief(&events)));
        if let Some(why) = break_in(&all, 1) {
            return fail(format!("{launch} launch: {why}: {}", brief(&events)));
        }
        let mut stream = live.stream_from_the_beginning(&format!("&topics={topic}"))?;
        let events = until(&mut stream, &last)?;
        let left: Vec<u64> = seqs(&live, &events)?;
        ensure!(left == of_topic, "{launch} launch, of the topic {topic}: {}", brief(&events));
        daemon.kill_group();
    }
    Ok(())
}

/// Four clients make events at once while streams are open and others are opened: on each the numbers rise, and the events of
/// one client keep their order.
#[case("STR-12")]
fn in_order_and_none_twice(stage: &mut Stage) -> Outcome {
    const WRITERS: u64 = 4;
    const EACH: u64 = 40;
    let (_daemon, live) = settled(stage)?;
    let topic = stage.topic()?;
    let mut streams = [
        live.open_stream("")?,
        live.open_stream(&format!("?topics={topic}"))?,
        live.stream_from_the_beginning("")?,
    ];
    let mut posters = Vec::new();
    for _ in 0..WRITERS {
        posters.push(Poster::new(&live)?);
    }
    stage.expect(
        "rising numbers, none twice, while four clients make events at once and streams are opened concurrently",
    );
    let writers: Vec<_> = posters
        .into_iter()
        .map(|mut poster| {
            std::thread::spawn(move || (0..EACH).map(|_| poster.try_event(0)).collect::<Result<Vec<_>, _>>())
        })
        .collect();
    let mut late = Vec::new();
    while writers.iter().any(|writer| !writer.is_finished()) {
        late.push(live.stream_from_the_beginning(&format!("&topics={topic}"))?);
        let seen = follow(&mut streams[0], Instant::now() + SEEN, |event| event.name == topic);
        if !seen.found {
            break;
        }
    }
    let mut made = Vec::new();
    for writer in writers {
        match writer.join() {
            Ok(Ok(ids)) => made.push(ids),
            Ok(Err(why)) => {
                return inconclusive(format!("the request of the manifest's `binding.emit`: {why}"));
            }
            Err(_) => return Err(Stop::Fault("a client of the case panicked".to_owned())),
        }
    }
    let marker = Poster::new(&live)?.event()?;
    late.truncate(20);
    // One that has everything before it, and gets it in as few pieces as the daemon likes.
    late.push(live.stream_from_the_beginning("")?);
    stage.observed(format!("{} streams, {} events", 3 + late.len(), WRITERS * EACH));
    // The first was read a little before.
    for (place, stream) in streams.iter_mut().chain(&mut late).enumerate() {
        let events = until(stream, &marker)?;
        let all = seqs(&live, &events)?;
        if let Some([one, next]) = all.array_windows().find(|[one, next]| one >= next) {
            return fail(format!("stream {place}: {next} after {one}"));
        }
        // What one client made, one after the other, stays in that order.
        for ids in &made {
            let places =
                ids.iter().filter_map(|id| events.iter().position(|event| event.id.as_ref() == Some(id)));
            ensure!(places.is_sorted(), "stream {place}: the events of one client come in another order");
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
    let topic = stage.topic()?;
    let mut topics = vec![topic.clone()];
    topics.extend(stage.other_topics()?.into_iter().take(1));
    let mut chosen = live.open_stream(&format!("?topics={}", topics.join(",")))?;
    let first = poster.event()?;
    let last = poster.events(10)?;
    let same = |event: &Event| (event.id.clone(), event.name.clone(), event.data.clone());
    let expected: Vec<_> = until(&mut at_once, &last)?.iter().map(same).collect();
    // `at` is a part of the data, and says when it happened, not when it was sent.
    let header = [("Last-Event-ID", first.as_str())];
    let mut resumed = live.resume_stream("", &header)?;
    let mut beginning = live.stream_from_the_beginning("")?;
    let mut again = live.stream_from_the_beginning(&format!("&topics={topic}"))?;
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
            let (id, name, data) = other;
            let id = id.as_deref().unwrap_or("without an id");
            return fail(format!("a stream {what}: the event {id} ({name}) was another at once: {data}"));
        }
        ensure!(shared >= 10, "a stream {what} shares {shared} events");
    }
    Ok(())
}

/// What `data` of an event violates of `events.schema.json`.
pub(super) fn invalid(event: &Event, topics: &[String]) -> Option<&'static str> {
    let data = &event.data;
    let text = |value: &Value| value.as_str().is_some();
    let word = |value: &Value, words: &[&str]| value.as_str().is_some_and(|value| words.contains(&value));
    let topic = data["topic"].as_str()?;
    let payload = &data["data"];
    if !data.is_object() {
        return Some("no object");
    }
    if !topics.iter().any(|known| known == topic) && !ABOUT.contains(&topic) {
        return Some("a topic that the manifest does not name");
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
    let topic = stage.topic()?;
    let mut known = stage.other_topics()?;
    known.push(topic.clone());
    let last = poster.events(3)?;
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
    let names = topics.iter().copied().collect::<Vec<_>>().join(", ");
    stage.observed(format!("events of {names}"));
    for event in &events {
        ensure!(
            event.data["topic"].as_str() == Some(&event.name),
            "the event {} says the topic {}",
            event.name,
            event.data["topic"]
        );
        if let Some(why) = invalid(event, &known) {
            return fail(format!("{why}: {} {}", event.name, event.data));
        }
    }
    if topics.contains(&*topic) && topics.contains("gap") {
        Ok(())
    } else {
        inconclusive(format!("only events of {names} were seen"))
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
        let topics = ["lifecycle", "warning", "origins", "sessions", "proxies", "note"].map(str::to_owned);
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
            assert_eq!(invalid(&event, &topics).is_none(), good, "{data}");
            // Formats are annotations to a validator.
            assert!(schema.is_valid(&data) == good || data["at"] == "yesterday", "{data}");
        }
        assert!(id_is_split());
    }

    fn id_is_split() -> bool {
        split("0123abcd-12") == Some(("0123abcd", 12)) && split("0123abcd-0").is_none()
    }
}
