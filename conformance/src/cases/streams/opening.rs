//! Opening a stream.

use std::time::{Duration, Instant};

use local_daemon_harness::process::Signal;
use local_daemon_harness::sse::{EventStream, Sight};

use crate::case::case;
use crate::fixtures::daemon::{NOTICED, Rival, signal};
use crate::fixtures::stream::{ABOUT, Event, Poster, SEEN, brief, epoch, id, settled, to_the_end, until};
use crate::outcome::{Outcome, ensure, fail, inconclusive};
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
    let lost = format!("?topics=note&after={}", "00000000-7");
    for (query, headers) in [
        ("", &[][..]),
        ("?topics=note", &[]),
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
            "{query}: {}, Content-Type {:?}, Cache-Control {stored:?}",
            head.status,
            head.header("content-type")
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
    let mut stream = match live.ask_stream("?topics=note", &[])? {
        Ok(stream) => stream,
        Err(fault) => return fail(format!("no head while nothing happens: {fault}")),
    };
    // Nothing is posted: what comes before a sign of life is due comes of itself.
    match stream.next(Instant::now() + SEEN) {
        Sight::Frame(frame) => {
            stage.observed(format!("{:?}", frame.fields));
            ensure!(
                frame.field("retry") == Some("500") && frame.data().is_none(),
                "the first frame is {:?}",
                frame.fields
            );
            Ok(())
        }
        other => fail(format!("no `retry` while nothing happens: {other:?}")),
    }
}

/// Twenty times a stream is opened, and a note posted as soon as its head was read; each sees its note.
#[case("STR-3")]
fn delivers_what_happens_after_its_head(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    stage.expect("the event that happens right after the head was read, on each of 20 new streams");
    // The connection is there before, so that nothing comes between the head and the note.
    poster.note("0")?;
    for n in 0..20 {
        let query = if n % 2 == 0 { "" } else { "?topics=note" };
        let mut stream = live.open_stream(query)?;
        let id = poster.note(&n.to_string())?;
        until(&mut stream, &id)?;
    }
    Ok(())
}

/// The topics of what a stream delivered and that were not wanted, besides those about the stream itself.
fn unwanted(events: &[Event], wanted: &[&str]) -> Vec<String> {
    let others = events
        .iter()
        .filter(|event| !wanted.contains(&&*event.name) && !ABOUT.contains(&&*event.name));
    others.map(Event::brief).collect()
}

/// Streams of some topics are read from the beginning of a log that holds others too, and until the daemon
/// stops: only their topics come, and the words about the stream.
#[case("STR-4")]
fn topics_choose(stage: &mut Stage) -> Outcome {
    let (daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    let marker = poster.notes(3)?;
    let mut all = live.stream_from_the_beginning("")?;
    let events = until(&mut all, &marker)?;
    if unwanted(&events, &["note"]).is_empty() {
        return inconclusive("nothing but notes happened, so that nothing can be left out");
    }
    stage.precondition(format!("the log holds notes and others: {}", brief(&events)));
    stage.expect("only the named topics, and the words about the stream itself");

    let mut notes = live.stream_from_the_beginning("&topics=note")?;
    let mut two = live.stream_from_the_beginning("&topics=sessions%2Cnote")?;
    let mut others = live.stream_from_the_beginning("&topics=lifecycle,warning,origins")?;
    let mut lost = live.open_stream("?topics=note&after=00000000-7")?;
    let told = until(&mut lost, &marker)?;
    ensure!(
        told.first().is_some_and(|event| event.name == "gap"),
        "a stream of notes is not told that some are lost: {}",
        brief(&told)
    );
    let mut lost = live.open_stream("?topics=note&after=00000000-7")?;
    let notes_there = events.iter().filter(|event| event.name == "note").count();
    for stream in [&mut notes, &mut two, &mut lost] {
        let seen = until(stream, &marker)?;
        let unwanted = unwanted(&seen, &["note", "sessions"]);
        ensure!(unwanted.is_empty(), "not asked for: {unwanted:?}");
        let count = seen.iter().filter(|event| event.name == "note").count();
        ensure!(count == notes_there, "{count} of {notes_there} notes: {}", brief(&seen));
    }
    // What stops the daemon is a change of its life, and the last word is for everybody.
    signal(&daemon, Signal::TERM)?;
    let deadline = Instant::now() + SEEN;
    for (stream, wanted) in [
        (&mut notes, &["note"][..]),
        (&mut others, &["lifecycle", "warning", "origins"]),
    ] {
        let seen = to_the_end(stream, deadline);
        let unwanted = unwanted(&seen.events, wanted);
        ensure!(unwanted.is_empty(), "not asked for: {unwanted:?}");
        let told = seen.events.iter().any(|event| event.name == "shutdown");
        ensure!(told, "a stream of {wanted:?} is not told of the shutdown: {}", brief(&seen.events));
    }
    Ok(())
}

/// Streams are asked for with misspelt topics, alone and beside known ones. Each is 400.
#[case("STR-5")]
fn unknown_topic_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("400 to each stream that names an unknown topic, 200 to those that do not");
    live.between_controls(|| {
        for topics in [
            "note",
            "note,sessions",
            "lifecycle,warning,origins,sessions,proxies,note",
        ] {
            live.open_stream(&format!("?topics={topics}"))?;
        }
        stage.control("streams of known topics open");
        for topics in [
            "nope",
            "notes",
            "NOTE",
            "note,nope",
            "nope,note",
            "no%20te",
            "note;sessions",
        ] {
            let seen = match live.ask_stream(&format!("?topics={topics}"), &[])? {
                Ok(stream) => stream.head.status.to_string(),
                Err(fault) => fault.to_string(),
            };
            ensure!(seen == "400", "topics={topics}: {seen}");
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
        for query in ["", "?topics=note", &*resumed] {
            let seen = match live.ask_stream(query, &[])? {
                Ok(stream) => stream.head.status.to_string(),
                Err(fault) => fault.to_string(),
            };
            stage.observed(format!("{how}, {query:?}: {seen}"));
            ensure!(seen == "503" || seen == "connection refused", "{how}, {query:?}: {seen}");
        }
        daemon.kill_group();
        std::fs::remove_file(stage.record_path()).ok();
    }
    Ok(())
}
