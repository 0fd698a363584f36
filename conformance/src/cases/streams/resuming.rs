//! Taking a stream up again.

use std::time::Instant;

use local_daemon_harness::process::Signal;

use crate::case::case;
use crate::fixtures::daemon::signal;
use crate::fixtures::stream::{
    ABOUT, Event, MOST_EVENTS, Poster, SEEN, break_in, brief, follow, id, seqs, settled, split, to_the_end,
    until,
};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{ReadyDaemon, Stage};

/// The number of an event, by the id in the answer to its request.
fn number(id: &str) -> Outcome<u64> {
    match split(id) {
        Some((_, seq)) => Ok(seq),
        None => inconclusive(format!("an event was answered with the id {id}")),
    }
}

/// The first event of a stream, whatever it is.
fn first_event(stream: &mut local_daemon_harness::sse::EventStream) -> Outcome<Event> {
    let mut seen = follow(stream, Instant::now() + SEEN, |_| true);
    match seen.events.pop() {
        Some(event) => Ok(event),
        None => fail(format!("the stream begins with nothing{}", seen.end())),
    }
}

/// A stream is taken up after every id of a log, from before the first to the last, by header and by
/// parameter.
#[case("STR-15")]
fn resumes_exactly_after(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    let last = poster.events(8)?;
    let last = number(&last)?;
    stage
        .expect("the event after the named one, for every id that the log holds, by parameter and by header");
    for after in 0..=last {
        let named = id(&live, after);
        let query = format!("?after={named}");
        let header = [("Last-Event-ID", &*named)];
        let mut streams = vec![
            (query.clone(), live.resume_stream(&query, &[])?),
            (format!("Last-Event-ID: {named}"), live.resume_stream("", &header)?),
        ];
        if after == last {
            // The next one is still to come.
            poster.event()?;
        }
        for (how, stream) in &mut streams {
            let event = first_event(stream)?;
            ensure!(event.id == Some(id(&live, after + 1)), "{how}: begins with {}", event.brief());
        }
    }
    Ok(())
}

/// Header and parameter name different events, each further than the other in turn: the header counts.
#[case("STR-16")]
fn last_event_id_wins(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    let last = poster.events(6)?;
    let last = number(&last)?;
    stage.expect("the event after the one in the header, whichever is further");
    for (header, parameter) in [(last - 1, 1), (1, last - 1), (0, last), (last - 2, 0)] {
        let (header, parameter) = (id(&live, header), id(&live, parameter));
        let query = format!("?after={parameter}");
        let mut stream = live.resume_stream(&query, &[("Last-Event-ID", &header)])?;
        let event = first_event(&mut stream)?;
        let after = number_of(&header) + 1;
        ensure!(
            event.id == Some(id(&live, after)),
            "Last-Event-ID {header}, after={parameter}: begins with {}",
            event.brief()
        );
    }
    // What is lost by the header is lost, although the parameter's is held.
    let query = format!("?after={}", id(&live, 1));
    let mut stream = live.resume_stream(&query, &[("Last-Event-ID", "00000000-7")])?;
    let event = first_event(&mut stream)?;
    ensure!(
        event.name == "gap",
        "Last-Event-ID of another epoch, after={}: begins with {}",
        id(&live, 1),
        event.brief()
    );
    Ok(())
}

fn number_of(id: &str) -> u64 {
    id.rsplit('-').next().and_then(|seq| seq.parse().ok()).unwrap_or_default()
}

/// A stream that must begin with one gap, name the oldest event that is held, and go on from there to the last.
fn begins_with_a_gap(
    live: &ReadyDaemon,
    how: &str,
    stream: &mut local_daemon_harness::sse::EventStream,
    last: &str,
) -> Outcome<u64> {
    let events = until(stream, last)?;
    let Some(first) = events.first().filter(|event| event.name == "gap").and_then(Event::first) else {
        return fail(format!("{how}: begins with {}", brief(&events)));
    };
    let rest = seqs(live, &events[1..])?;
    if let Some(why) = break_in(&rest, first) {
        return fail(format!("{how}: after a gap whose first is {first}: {why}"));
    }
    let named = events[0].payload()["first"].as_str() == Some(&id(live, first));
    ensure!(named, "{how}: the gap names another log: {}", events[0].brief());
    Ok(first)
}

/// More events happen than a log holds. Whoever goes on after a lost one is told where it goes on, and
/// whoever has lost nothing is told nothing.
#[case("STR-17", deadline_s = 40)]
fn what_is_not_held_is_a_gap(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    // More than a log holds, and more than one that begins anew when it is full.
    let last = poster.events(MOST_EVENTS + 300)?;
    stage.precondition(format!("more events happened than a log holds; the last is {last}"));
    stage.expect("one gap that names the oldest event that is held, and everything from there");
    let mut beginning = live.resume_stream(&format!("?after={}", id(&live, 0)), &[])?;
    let oldest = begins_with_a_gap(&live, "from the beginning", &mut beginning, &last)?;
    stage.observed(format!("{oldest} is the oldest that is held, {last} the last"));
    ensure!(oldest > 1, "nothing was let go of");
    for after in [1, oldest / 2, oldest - 2] {
        let how = format!("after {after}");
        let query = format!("?after={}", id(&live, after));
        let mut stream = live.resume_stream(&query, &[])?;
        let first = begins_with_a_gap(&live, &how, &mut stream, &last)?;
        ensure!(first == oldest, "{how}: the gap names {first}, and {oldest} is held");
    }
    // Right before the oldest nothing is missing.
    let mut stream = live.resume_stream(&format!("?after={}", id(&live, oldest - 1)), &[])?;
    let event = first_event(&mut stream)?;
    ensure!(
        event.id == Some(id(&live, oldest)),
        "after {}, whose next is held: begins with {}",
        oldest - 1,
        event.brief()
    );
    Ok(())
}

/// Ids of an earlier launch, of nobody's, and higher than the last are answered by a gap and all that is
/// held.
#[case("STR-18")]
fn another_epoch_or_the_future_is_a_gap(stage: &mut Stage) -> Outcome {
    stage.expect("a gap that names the oldest event that is held, and everything from there");
    let (before, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    let of_before = poster.events(3)?;
    before.kill_group();
    before.wait_exit(stage.stand_down_deadline());

    let (_daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    let last = poster.events(9)?;
    let mut all = live.stream_from_the_beginning("")?;
    let everything = until(&mut all, &last)?;
    let oldest = everything.first().and_then(Event::seq);
    stage.precondition(format!("the log holds {}", brief(&everything)));
    let last_seq = number(&last)?;
    let mut after = vec![of_before, "00000000-3".to_owned(), "ffffffff-0".to_owned()];
    after.extend([last_seq + 1, last_seq + 2, 4_294_967_297].map(|seq| id(&live, seq)));
    after.push(format!("{}9999", id(&live, u64::MAX)));
    for after in &after {
        for by_header in [true, false] {
            let how = format!("after {after}");
            let mut stream = if by_header {
                live.resume_stream("", &[("Last-Event-ID", after)])?
            } else {
                live.resume_stream(&format!("?after={after}"), &[])?
            };
            let first = begins_with_a_gap(&live, &how, &mut stream, &last)?;
            ensure!(
                Some(first) == oldest,
                "{how}: the gap names {first}, and the log holds {oldest}",
                oldest = in_words(&oldest)
            );
        }
    }
    Ok(())
}

/// A gap, a displacement and a stop are told on streams; none of these events has an id.
#[case("STR-19")]
fn words_about_the_stream_have_no_id(stage: &mut Stage) -> Outcome {
    let (first, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    let last = poster.events(3)?;
    stage.expect("no `id` field in a gap, superseded or shutdown event");
    let mut stream = live.open_stream("?after=00000000-7")?;
    let mut events = until(&mut stream, &last)?;
    let second = stage.launch()?;
    let deadline = stage.stand_down_deadline() + SEEN;
    events.extend(to_the_end(&mut stream, deadline).events);
    drop(first);
    let live = stage.ready(&second)?;
    let mut stream = live.open_stream("")?;
    signal(&second, Signal::TERM)?;
    events.extend(to_the_end(&mut stream, Instant::now() + SEEN).events);
    let about: Vec<&Event> = events.iter().filter(|event| ABOUT.contains(&&*event.name)).collect();
    if about.is_empty() {
        return inconclusive("no such event was seen");
    }
    let texts: Vec<String> = about.iter().map(|event| event.brief()).collect();
    stage.observed(texts.join(", "));
    let with_id = about.iter().find(|event| event.id.is_some());
    ensure!(with_id.is_none(), "{}", with_id.map_or_else(String::new, |event| event.brief()));
    Ok(())
}

/// Texts that are no event id, in the header and in the parameter, alone and next to a good one in the other place. Each is
/// 400, and so is an empty parameter.
#[case("STR-20")]
fn garbled_ids_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    let epoch = crate::fixtures::stream::epoch(&live).to_owned();
    stage.expect("400 to each id that is none, in the header and in the parameter; 200 to good ones");
    live.between_controls(|| {
        let good = id(&live, 0);
        for good in [&good, "00000000-1"] {
            live.resume_stream(&format!("?after={good}"), &[])?;
            live.resume_stream("", &[("Last-Event-ID", good)])?;
        }
        stage.control("ids of the right form open a stream");
        let garbled = [
            "now".to_owned(),
            "7".to_owned(),
            epoch.clone(),
            format!("{epoch}-"),
            "-1".to_owned(),
            format!("{epoch}--1"),
            format!("{epoch}-1x"),
            format!("{epoch}-x"),
            format!("{epoch}-1.5"),
            format!("{epoch}-0x1"),
            format!("{epoch}-1-1"),
            format!("{epoch}_1"),
            format!("{}-1", &epoch[..7]),
            format!("{}-1", live.record.id),
            "g0000000-1".to_owned(),
            format!("{epoch}-1,{epoch}-2"),
        ];
        let refused = |query: &str, headers: &[(&str, &str)]| -> Outcome {
            let seen = match live.ask_stream(query, headers)? {
                Ok(stream) => stream.head.status.to_string(),
                Err(fault) => fault.to_string(),
            };
            let headers: Vec<String> =
                headers.iter().map(|(name, value)| format!(", {name}: {value}")).collect();
            ensure!(seen == "400", "GET of the stream{query}{}: answered {seen}, not 400", headers.concat());
            Ok(())
        };
        let good_parameter = format!("?after={good}");
        for garbled in &garbled {
            for query in ["", &good_parameter] {
                refused(query, &[("Last-Event-ID", garbled)])?;
            }
            for headers in [&[][..], &[("Last-Event-ID", &*good)]] {
                refused(&format!("?after={garbled}"), headers)?;
            }
        }
        refused("?after=", &[])
    })
}

/// Streams are asked for with an empty `Last-Event-ID`, alone and next to `after`: they open as without it, from now on or
/// after the event of the parameter.
#[case("STR-33")]
fn an_empty_header_is_absent(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    stage.expect("what the same request without the header gets");
    let last = poster.events(3)?;
    let after = number(&last)?;
    let empty = [("Last-Event-ID", "")];
    let mut from_now = live.resume_stream("", &empty)?;
    let next = poster.event()?;
    let events = until(&mut from_now, &next)?;
    ensure!(
        events.iter().filter_map(Event::seq).all(|seq| seq > after),
        "a stream from now on delivers what happened before: {}",
        brief(&events)
    );
    let named = id(&live, after - 2);
    let mut resumed = live.resume_stream(&format!("?after={named}"), &empty)?;
    let event = first_event(&mut resumed)?;
    ensure!(event.id == Some(id(&live, after - 1)), "after={named}: begins with {}", event.brief());
    Ok(())
}
