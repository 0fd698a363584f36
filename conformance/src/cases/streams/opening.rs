//! Opening a stream.

use std::time::{Duration, Instant};

use local_daemon_harness::process::Signal;
use local_daemon_harness::sse::{EventStream, Frame, Sight};

use crate::case::case;
use crate::fixtures::daemon::{NOTICED, Rival, signal};
use crate::fixtures::stream::{
    ABOUT, Event, Poster, SEEN, brief, end_of, epoch, id, settled, to_the_end, until,
};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive, not_applicable};
use crate::stage::Stage;

/// Streams are opened: of everything, of a topic, from the beginning, after an id that is not held, as other
/// clients ask. Each answer is an event stream that nobody may store.
#[case("STR-1")]
fn opens_as_an_event_stream(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect(
        "200, `Content-Type: text/event-stream` and `Cache-Control: no-store`, however it is asked for",
    );
    let beginning = format!("?after={}", id(&live, 0));
    let of_topic = format!("?topics={}", stage.topic()?);
    let lost = format!("{of_topic}&after=00000000-7");
    for (query, headers) in [
        ("", &[][..]),
        (&*of_topic, &[]),
        (&*beginning, &[]),
        (&*lost, &[]),
        ("", &[("Accept", "*/*"), ("Cache-Control", "no-cache")]),
    ] {
        let stream = match live.ask_stream(query, headers)? {
            Ok(stream) => stream,
            Err(fault) => return fail(format!("{query}: {fault}")),
        };
        let head = &stream.head;
        let stored = head.all("cache-control").join(",");
        let never = stored.split(',').any(|word| word.trim().eq_ignore_ascii_case("no-store"));
        let seen = format!(
            "{query}: {}, Content-Type {}, Cache-Control {stored}",
            head.status,
            in_words(&head.header("content-type")),
            stored = in_words(&stored)
        );
        stage.observed(seen.clone());
        ensure!(
            head.status == 200 && head.media_type().as_deref() == Some("text/event-stream") && never,
            "{seen}"
        );
    }
    Ok(())
}

/// A stream of a topic without events is opened and nothing is done: head and `retry: 500` come all the same.
#[case("STR-2")]
fn head_before_anything_happens(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("the head and `retry: 500` at once, while nothing happens");
    let mut stream = match live.ask_stream(&format!("?topics={}", stage.topic()?), &[])? {
        Ok(stream) => stream,
        Err(fault) => return fail(format!("no head while nothing happens: {fault}")),
    };
    // Nothing is posted: what comes before a sign of life is due comes of itself.
    match stream.next(Instant::now() + SEEN) {
        Sight::Frame(frame) => {
            stage.observed(in_words(&frame.fields));
            ensure!(
                frame.field("retry") == Some("500") && frame.data().is_none(),
                "the first frame is {}",
                in_words(&frame.fields)
            );
            Ok(())
        }
        Sight::End(ending) => fail(format!("no `retry` while nothing happens{}", end_of(Some(&ending)))),
        Sight::Nothing => fail("no `retry` while nothing happens"),
    }
}

/// Twenty times a stream is opened, and an event made as soon as its head was read; each sees its event.
#[case("STR-3")]
fn delivers_what_happens_after_its_head(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    let of_topic = format!("?topics={}", stage.topic()?);
    stage.expect("the event that happens right after the head was read, on each of 20 new streams");
    // The connection is there before, so that nothing comes between the head and the event.
    poster.event()?;
    for n in 0..20 {
        let mut stream = live.open_stream(if n % 2 == 0 { "" } else { &of_topic })?;
        let id = poster.event()?;
        until(&mut stream, &id)?;
    }
    Ok(())
}

/// The first block of a stream that has an id or data: what comes before it says nothing of a place.
fn first_block(stream: &mut EventStream) -> Outcome<Frame> {
    let deadline = Instant::now() + SEEN;
    loop {
        match stream.next(deadline) {
            Sight::Frame(frame) if frame.id().is_none() && frame.data().is_none() => {}
            Sight::Frame(frame) => return Ok(frame),
            Sight::End(_) => return fail("the stream ends before its first event"),
            Sight::Nothing => return fail("no block with an `id` while nothing happens"),
        }
    }
}

/// Streams are opened before anything happens, after events, of everything and of a topic. Each begins with a block that has
/// the id of the last event and no data. Three events happen while no stream is open; a stream that is resumed by that id
/// delivers them.
#[case("STR-32")]
fn begins_with_where_it_begins(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    let of_topic = format!("?topics={}", stage.topic()?);
    stage.expect("a first block without `data`, whose `id` is that of the last event before the stream");
    let mut last: Option<String> = None;
    for _ in 0..3 {
        for query in ["", &of_topic] {
            let mut stream = live.open_stream(query)?;
            let block = first_block(&mut stream)?;
            let named = block.id().unwrap_or("no id").to_owned();
            let what = format!("a stream{query} after {}", last.as_deref().unwrap_or("the launch"));
            ensure!(
                block.data().is_none(),
                "{what}: an event comes before the block that says where it begins"
            );
            // What the launch itself has logged is not known; that nothing is between it and the next event is seen below.
            let is_right = last.as_ref().is_none_or(|last| *last == named);
            ensure!(is_right, "{what} begins with the id {named}");
            let next = poster.event()?;
            let events = until(&mut stream, &next)?;
            let first = events.first().and_then(Event::seq);
            let follows =
                named.rsplit_once('-').and_then(|(of, seq)| Some((of, seq.parse::<u64>().ok()? + 1)));
            ensure!(
                follows
                    .is_some_and(|(of, seq)| of == epoch(&live) && (Some(seq) == first || !query.is_empty())),
                "{what} begins with the id {named}, and its first event is {}",
                brief(&events)
            );
            last = Some(next);
        }
    }
    let named = first_block(&mut live.open_stream(&of_topic)?)?.id().unwrap_or_default().to_owned();
    stage.precondition(format!("a stream that was cut before its first event named {named}"));
    let missed = [poster.event()?, poster.event()?, poster.event()?];
    let mut resumed = live.resume_stream(&of_topic, &[("Last-Event-ID", &named)])?;
    let events = until(&mut resumed, &missed[2])?;
    let seen: Vec<&str> = events.iter().filter_map(|event| event.id.as_deref()).collect();
    ensure!(seen == missed, "resumed by {named}, it delivers {}", brief(&events));
    Ok(())
}

/// The topics of what a stream delivered and that were not wanted, except those about the stream itself.
fn unwanted(events: &[Event], wanted: &[String]) -> String {
    let is_other = |event: &&Event| !wanted.contains(&event.name) && !ABOUT.contains(&&*event.name);
    let others: Vec<String> = events.iter().filter(is_other).map(Event::brief).collect();
    others.join(", ")
}

/// Streams of some topics are read from the beginning of the log, and until the daemon stops: only their topics come, and the
/// words about the stream.
#[case("STR-4")]
fn topics_choose(stage: &mut Stage) -> Outcome {
    let (topic, others) = (stage.topic()?, stage.other_topics()?);
    if others.is_empty() {
        return not_applicable("the manifest's `binding.stream.topics` has one topic alone");
    }
    let (daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    let marker = poster.events(3)?;
    let mut all = live.stream_from_the_beginning("")?;
    let events = until(&mut all, &marker)?;
    stage.precondition(format!("the log holds {}", brief(&events)));
    stage.expect("only the named topics, and the words about the stream itself");
    let of_topic = format!("topics={topic}");
    let two = [others[0].clone(), topic.clone()];
    let own = [topic];

    let mut one = live.stream_from_the_beginning(&format!("&{of_topic}"))?;
    let mut of_two = live.stream_from_the_beginning(&format!("&topics={}", two.join("%2C")))?;
    let mut rest = live.stream_from_the_beginning(&format!("&topics={}", others.join(",")))?;
    let lost = format!("?{of_topic}&after=00000000-7");
    let told = until(&mut live.open_stream(&lost)?, &marker)?;
    ensure!(
        told.first().is_some_and(|event| event.name == "gap"),
        "a stream of one topic is not told that some events are lost: {}",
        brief(&told)
    );
    let mut lost = live.open_stream(&lost)?;
    let count = |events: &[Event]| events.iter().filter(|event| event.name == own[0]).count();
    for (stream, wanted) in [(&mut one, &own[..]), (&mut of_two, &two), (&mut lost, &own)] {
        let seen = until(stream, &marker)?;
        let unwanted = unwanted(&seen, wanted);
        ensure!(unwanted.is_empty(), "not asked for: {unwanted}");
        let (seen_of_it, there) = (count(&seen), count(&events));
        ensure!(seen_of_it == there, "{seen_of_it} of {there} events of {}: {}", own[0], brief(&seen));
    }
    // What stops the daemon is a change of its life, and the last word is for everybody.
    signal(&daemon, Signal::TERM)?;
    let deadline = Instant::now() + SEEN;
    for (stream, wanted) in [(&mut one, &own[..]), (&mut rest, &others)] {
        let seen = to_the_end(stream, deadline);
        let unwanted = unwanted(&seen.events, wanted);
        ensure!(unwanted.is_empty(), "not asked for: {unwanted}");
        let told = seen.events.iter().any(|event| event.name == "shutdown");
        ensure!(
            told,
            "a stream of {} is not told of the shutdown: {}",
            wanted.join(", "),
            brief(&seen.events)
        );
    }
    Ok(())
}

/// Streams are asked for with misspelt topics, alone and beside known ones. Each is 400.
#[case("STR-5")]
fn unknown_topic_refused(stage: &mut Stage) -> Outcome {
    let (topic, others) = (stage.topic()?, stage.other_topics()?);
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("400 to each stream that names an unknown topic, 200 to those that do not");
    let mut known = vec![topic.clone()];
    known.extend(others.iter().cloned());
    let all = known.join(",");
    let two = known[..known.len().min(2)].join(",");
    let mut unknown = vec![
        "nope".to_owned(),
        format!("{topic}s"),
        topic[..topic.len() - 1].to_owned(),
        topic.to_ascii_uppercase(),
        format!("{topic},nope"),
        format!("nope,{topic}"),
        format!("{}%20{}", &topic[..1], &topic[1..]),
    ];
    unknown.extend(others.first().map(|other| format!("{topic};{other}")));
    unknown.retain(|topics| !known.contains(topics) && !topics.is_empty());
    live.between_controls(|| {
        for topics in [&topic, &two, &all] {
            live.open_stream(&format!("?topics={topics}"))?;
        }
        stage.control("streams of known topics open");
        for topics in &unknown {
            let seen = match live.ask_stream(&format!("?topics={topics}"), &[])? {
                Ok(stream) => stream.head.status.to_string(),
                Err(fault) => fault.to_string(),
            };
            ensure!(seen == "400", "topics={topics}: answered {seen}, not 400");
        }
        Ok(())
    })
}

/// Waits until a stream that was open ends: the daemon has begun to stand down. A daemon that never ends it has had the
/// time to.
fn stands_down(stream: &mut EventStream) {
    to_the_end(stream, Instant::now() + NOTICED);
}

/// A daemon that is displaced, and one that stops, wait for a request that is half sent; a stream asked for
/// meanwhile is 503.
#[case("STR-6")]
fn standing_down_refuses_a_stream(stage: &mut Stage) -> Outcome {
    stage.expect("503 to each request for a stream, by a daemon that is displaced and by one that stops");
    for how in ["displaced", "stopped"] {
        let (daemon, live) = stage.launch_ready()?;
        let mut before = live.open_stream("")?;
        let _work = live.open_work()?;
        let _rival = if how == "displaced" {
            let rival = Rival::new()?;
            rival.publish(&stage.record_path())?;
            Some(rival)
        } else {
            signal(&daemon, Signal::TERM)?;
            None
        };
        stands_down(&mut before);
        // What it waits for is still open, so that it is there to be asked.
        if let Some(exit) = daemon.wait_exit(Instant::now() + Duration::from_millis(1)) {
            return inconclusive(format!("{how}, it has ended already: {exit}"));
        }
        stage.precondition(format!("{how}, it stands down and is still there"));
        let resumed = format!("?after={}-0", epoch(&live));
        let of_topic = format!("?topics={}", stage.topic()?);
        for query in ["", &*of_topic, &*resumed] {
            let seen = match live.ask_stream(query, &[])? {
                Ok(stream) => stream.head.status.to_string(),
                Err(fault) => fault.to_string(),
            };
            stage.observed(format!("{how}, {query}: {seen}", query = in_words(&query)));
            ensure!(
                seen == "503" || seen == "connection refused",
                "{how}, {query}: {seen}",
                query = in_words(&query)
            );
        }
        daemon.kill_group();
        std::fs::remove_file(stage.record_path()).ok();
    }
    Ok(())
}
