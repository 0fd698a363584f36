//! What a log and a subscriber may take.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use local_daemon_harness::process::SocketState;
use local_daemon_harness::proof;
use local_daemon_harness::sse::{Ending, EventStream, Sight};
use local_daemon_harness::wait::until as look_until;

use crate::case::case;
use crate::fixtures::daemon::SLACK;
use crate::fixtures::stream::{
    Event, MOST_BYTES, MOST_EVENTS, Poster, SEEN, SILENT, break_in, brief, end_of, follow, id, seqs, split,
    until,
};
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive, untestable};
use crate::stage::{Daemon, PROBE, ReadyDaemon, Stage};

/// How many subscribers do not read.
const MANY: usize = 20;
const MIB: u64 = 1024 * 1024;
/// How soon what was held for a subscriber is given back (STR-24).
const GIVEN_BACK: Duration = Duration::from_secs(2);
/// How long looking at a daemon with many connections may take on a busy host.
const LOOKING: Duration = Duration::from_secs(2);

/// What a log holds: everything that a stream from the beginning delivers, besides the gap.
fn held(live: &ReadyDaemon, last: &str) -> Outcome<Vec<Event>> {
    let mut stream = live.stream_from_the_beginning("")?;
    let mut events = until(&mut stream, last)?;
    events.retain(|event| event.name != "gap");
    Ok(events)
}

/// How long the data of events is, in bytes: less than what the log needs for them.
fn length(events: &[Event]) -> usize {
    events.iter().map(|event| event.data.to_string().len()).sum()
}

/// More than 4,096 short events happen; a stream from the beginning delivers 4,096 at most.
#[case("STR-21", deadline_s = 40)]
fn log_is_bounded_in_events(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    let last = poster.events(MOST_EVENTS + 200)?;
    stage.precondition(format!("{last} is the last of more than 4,096 short events"));
    stage.expect("at most 4,096 of them are held");
    let held = held(&live, &last)?.len() as u64;
    stage.observed(format!("{held} are held"));
    ensure!(held <= MOST_EVENTS, "{held} events are held");
    Ok(())
}

/// More than 4 MiB of long events happen; a stream from the beginning delivers 4 MiB at most.
#[case("STR-21", deadline_s = 40)]
fn log_is_bounded_in_bytes(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    let last = poster.bulk(MOST_BYTES + 20 * poster.large()?)?;
    stage.precondition(format!("{last} is the last of more than 4 MiB of events"));
    stage.expect("at most 4 MiB of them are held");
    let held = held(&live, &last)?;
    let bytes = length(&held);
    stage.observed(format!("{} events of {bytes} bytes are held", held.len()));
    ensure!(bytes <= MOST_BYTES, "{bytes} bytes are held");
    Ok(())
}

/// More than 4,096 short events happen; a stream that goes on 4,096 before the last misses nothing.
#[case("STR-22", deadline_s = 40)]
fn log_holds_the_newest_events(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    let last = poster.events(MOST_EVENTS + 200)?;
    let Some((_, seq)) = split(&last) else {
        return inconclusive(format!("an event was answered with the id {last}"));
    };
    stage.precondition(format!("{last} is the last of more than 4,096 short events"));
    stage.expect("the last 4,096 are held");
    let after = id(&live, seq - MOST_EVENTS);
    let mut stream = live.resume_stream(&format!("?after={after}"), &[])?;
    let events = until(&mut stream, &last)?;
    ensure!(events[0].name != "gap", "after {after}, of {last}: {}", brief(&events));
    let seqs = seqs(&live, &events)?;
    let broken = break_in(&seqs, seq - MOST_EVENTS + 1);
    ensure!(broken.is_none(), "after {after}: {}", broken.unwrap_or_default());
    Ok(())
}

/// More than 4 MiB of long events happen; a stream from the beginning delivers nearly 4 MiB.
#[case("STR-22", deadline_s = 40)]
fn log_holds_the_newest_bytes(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    let last = poster.bulk(MOST_BYTES + 20 * poster.large()?)?;
    stage.precondition(format!("{last} is the last of more than 4 MiB of events"));
    stage.expect("the newest are held, up to 4 MiB");
    let held = held(&live, &last)?;
    let bytes = length(&held);
    stage.observed(format!("{} events of {bytes} bytes are held", held.len()));
    // One more would not fit; how much a daemon reckons for a frame besides its data is its own affair.
    let least = MOST_BYTES - 2 * poster.large()?;
    ensure!(bytes >= least, "only {bytes} bytes are held");
    Ok(())
}

/// The memory of a daemon and all that comes of it, in bytes.
fn memory(daemon: &Daemon) -> Outcome<u64> {
    let sizes: Option<Vec<u64>> = daemon
        .tree()
        .iter()
        .filter(|process| !process.is_zombie())
        .map(local_daemon_harness::process::Proc::memory)
        .collect();
    match sizes {
        Some(sizes) if !sizes.is_empty() => Ok(sizes.iter().sum()),
        _ => untestable("the subject's memory cannot be read"),
    }
}

/// Many subscribers that do not read beyond the head.
fn many_stalled(live: &ReadyDaemon, query: &str) -> Outcome<Vec<EventStream>> {
    let mut streams = Vec::new();
    for _ in 0..MANY {
        streams.push(live.stalled_stream(query)?);
    }
    Ok(streams)
}

fn mib(bytes: u64) -> String {
    format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB)
}

/// Twenty subscribers read nothing of 24 MiB of events; the daemon's memory grows with the first of them and
/// not with the rest (opencode 1.18: row 33).
#[case("STR-23", deadline_s = 60)]
fn stalled_subscribers_are_bounded(stage: &mut Stage) -> Outcome {
    const ROUND: usize = 16 * 1024 * 1024;
    const ROUNDS: usize = 4;
    let (daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    // What a daemon takes for that many notes is not what is looked for, nor is its log.
    poster.bulk(ROUND)?;
    let before = memory(&daemon)?;
    let streams = many_stalled(&live, "")?;
    poster.bulk(2 * MOST_BYTES)?;
    let mut taken = memory(&daemon)?;
    stage.precondition(format!(
        "{MANY} subscribers read nothing of 8 MiB; the daemon takes {}, before them {}",
        mib(taken),
        mib(before)
    ));
    stage.expect("sooner or later, 16 MiB more that they do not read take no more memory");
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        poster.bulk(ROUND)?;
        let now = memory(&daemon)?;
        let grown = now.saturating_sub(taken);
        rounds.push(mib(grown));
        taken = now;
        if grown <= ROUND as u64 / 2 {
            stage.observed(format!("it grew by {} and takes {}", rounds.join(", "), mib(now)));
            drop(streams);
            return Ok(());
        }
        // A subject without any bound is not let take the host's memory.
        if now.saturating_sub(before) > MANY as u64 * ROUND as u64 {
            break;
        }
    }
    drop(streams);
    fail(format!("with each 16 MiB more it grew by {}, to {}", rounds.join(", "), mib(taken)))
}

/// How many streams the daemon says are open, where it says so.
fn counted(live: &ReadyDaemon) -> Option<u64> {
    let read = live.manifest().binding.authenticated_read.clone()?;
    let request = live.operation(&read).header("Authorization", &proof::bearer(&live.credential));
    let answer =
        local_daemon_harness::http::exchange(live.target.address, &request.bytes(), Instant::now() + PROBE);
    answer.ok()?.json()?["streams"].as_u64()
}

/// Subscribers leave, idle and stalled, closed and reset: their connections, their number and their memory are gone within
/// 2 s. A first round fills the log, and shows how much the daemon's allocator keeps after so many subscribers.
#[case("STR-24", deadline_s = 60)]
fn gives_back_what_a_subscriber_held(stage: &mut Stage) -> Outcome {
    const STALLED: &str = "closed while they do not read";
    let (daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    poster.bulk(3 * MOST_BYTES)?;
    stage.expect(
        "within 2 s of their end the connections are closed, the streams are not counted, and the daemon takes no more memory \
         than after a first round",
    );
    subscribers_leave(&daemon, &live, &mut poster, STALLED)?;
    daemon.wait_exit(Instant::now() + GIVEN_BACK);
    let before = memory(&daemon)?;
    stage.precondition(format!("the daemon takes {} after a first round", mib(before)));
    for how in ["closed while idle", "reset while idle", STALLED] {
        let ended = subscribers_leave(&daemon, &live, &mut poster, how)?;
        stage.observed(format!("{how}: gone after {} ms", ended.elapsed().as_millis()));
        let mut after = before;
        let back = look_until(ended + GIVEN_BACK + LOOKING, || match memory(&daemon) {
            Ok(now) => {
                after = now;
                (now <= before + 8 * MIB).then_some(Ok(()))
            }
            Err(stop) => Some(Err(stop)),
        });
        match back {
            Some(seen) => seen?,
            None => {
                return fail(format!(
                    "{how}: the daemon takes {} after 2 s, before them {}",
                    mib(after),
                    mib(before)
                ));
            }
        }
    }
    Ok(())
}

/// Subscribers are there and leave in one of three ways; returns when they left. Fails if their connections or their number
/// are still there after 2 s.
fn subscribers_leave(
    daemon: &Daemon,
    live: &ReadyDaemon,
    poster: &mut Poster,
    how: &str,
) -> Outcome<Instant> {
    let streams = if how == "closed while they do not read" {
        // All that the log holds waits for each of them.
        let streams = many_stalled(live, &format!("?after={}", id(live, 0)))?;
        poster.bulk(MOST_BYTES)?;
        streams
    } else {
        let of_topic = format!("?topics={}", live.topic()?);
        (0..MANY).map(|_| live.open_stream(&of_topic)).collect::<Outcome<Vec<EventStream>>>()?
    };
    let mut ends = Vec::new();
    for stream in &streams {
        ends.push(stream.local().map_err(|fault| Stop::Fault(format!("a stream has no address: {fault}")))?);
    }
    let there = || {
        let sockets = daemon.sockets().into_iter();
        // The kernel's table may show one twice that is read while it changes.
        let of_ours = sockets
            .filter(|socket| socket.state != SocketState::Listen && ends.contains(&socket.remote))
            .map(|socket| socket.remote);
        of_ours.collect::<BTreeSet<_>>().len()
    };
    let (open_now, told) = (there(), counted(live));
    if open_now != MANY {
        return inconclusive(format!("{open_now} of {MANY} connections are seen"));
    }
    let told_text = told.map_or_else(|| "does not say how many".to_owned(), |told| format!("counts {told}"));
    live.precondition(format!("{MANY} streams are open, the daemon {told_text}; {how}"));
    for stream in streams {
        let connection = stream.into_connection();
        if how == "reset while idle" {
            connection.reset().map_err(|fault| Stop::Fault(format!("cannot reset: {fault}")))?;
        }
    }
    let ended = Instant::now();
    let deadline = ended + GIVEN_BACK + LOOKING;
    if look_until(deadline, || (there() == 0).then_some(())).is_none() {
        return fail(format!("{how}: {} connections are there after 2 s", there()));
    }
    if told.is_some_and(|told| told >= MANY as u64)
        && look_until(deadline, || (counted(live) == Some(0)).then_some(())).is_none()
    {
        let left = counted(live).unwrap_or_default();
        return fail(format!("{how}: {left} streams are counted after 2 s"));
    }
    Ok(ended)
}

/// Twenty subscribers read nothing while a hundred large events happen: each is answered, and seen by another subscriber, at
/// once.
#[case("STR-25", deadline_s = 60)]
fn a_stalled_subscriber_delays_nobody(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    let large = poster.large()?;
    let mut reader = live.open_stream("")?;
    poster.event()?;
    let mut streams = many_stalled(&live, "")?;
    stage.precondition(format!("{MANY} subscribers read nothing"));
    stage.expect(
        "every event is answered, every other subscriber sees it, and handshakes are answered, at once",
    );
    for n in 0..100 {
        let posted = Instant::now();
        let id = match poster.try_event(large) {
            Ok(id) => id,
            Err(why) => return fail(format!("event {n}: {why}")),
        };
        let deadline = posted + SEEN;
        let seen = follow(&mut reader, deadline, |event| event.id.as_deref() == Some(&id));
        if !seen.found {
            return fail(format!(
                "event {n} ({id}) is not seen by one that reads after {} ms{}",
                posted.elapsed().as_millis(),
                seen.end()
            ));
        }
        if n % 20 == 0 && !live.is_ready() {
            return fail(format!("no handshake within 2 s, {n} events later"));
        }
    }
    // They did stall: what they can read at once is not all.
    let behind = follow(&mut streams[0], Instant::now() + Duration::from_millis(1), |_| false);
    stage.observed(format!("100 events; a stalled one has {} of them at once", behind.events.len()));
    Ok(())
}

/// Follows a stream to an event, and looks that whatever is not there is in a gap. After a gap it may end, and is
/// then taken up again.
fn nothing_missing(live: &ReadyDaemon, stream: EventStream, from: u64, last: &str) -> Outcome<(u64, u64)> {
    let (mut stream, mut next, mut gaps, mut resumed) = (stream, from, 0, 0);
    loop {
        let seen = follow(&mut stream, Instant::now() + 2 * SEEN, |event| event.id.as_deref() == Some(last));
        let mut after_gap = false;
        for event in &seen.events {
            after_gap = event.name == "gap";
            if after_gap {
                let Some(first) = event.first().filter(|first| *first >= next) else {
                    return fail(format!("{} where {next} comes next", event.brief()));
                };
                gaps += 1;
                next = first;
            } else if event.seq() == Some(next) {
                next += 1;
            } else {
                return fail(format!("{} where {next} comes next, and no gap", event.brief()));
            }
        }
        if seen.found {
            return Ok((gaps, resumed));
        }
        match seen.ending {
            Some(Ending::Clean) if after_gap && resumed < 20 => {
                resumed += 1;
                let header = id(live, next - 1);
                stream = live.resume_stream("", &[("Last-Event-ID", &header)])?;
            }
            ending => {
                return fail(format!("event {next} does not come{}", end_of(ending.as_ref())));
            }
        }
    }
}

/// Subscribers read on after 2 and after 14 MiB: what does not come is named by a gap.
#[case("STR-26", deadline_s = 60)]
fn a_slow_subscriber_loses_nothing_in_silence(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let mut poster = Poster::new(&live)?;
    let begin = poster.event()?;
    let Some((_, seq)) = split(&begin) else {
        return inconclusive(format!("an event was answered with the id {begin}"));
    };
    let within = live.stalled_stream("")?;
    let beyond = live.stalled_stream("")?;
    let short = live.stalled_stream(&format!("?topics={}", stage.topic()?))?;
    poster.bulk(MOST_BYTES / 2)?;
    let middle = poster.event()?;
    stage.precondition("three subscribers read nothing of 2 MiB of events");
    stage.expect("every event, or a gap that names where it goes on");
    let (gaps, _) = nothing_missing(&live, within, seq + 1, &middle)?;
    // All that it did not read is held.
    ensure!(gaps == 0, "a gap was told to one that is 2 MiB behind, all of which the log holds");
    poster.bulk(3 * MOST_BYTES)?;
    let last = poster.event()?;
    stage.precondition("two of them read nothing of 14 MiB of events");
    for (what, stream) in [("of everything", beyond), ("of one topic", short)] {
        let (gaps, resumed) = nothing_missing(&live, stream, seq + 1, &last)?;
        stage.observed(format!("a stream {what}: {gaps} gaps, taken up again {resumed} times"));
    }
    Ok(())
}

/// Nothing happens on a stream while events happen that it does not want: a word comes within 15 s.
#[case("STR-27", idle, deadline_s = 30)]
fn says_that_it_is_there(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    // A stream of the only topic is quiet as long as no event is made.
    let other = stage.other_topics()?.pop();
    let poster = other.as_ref().map(|_| Poster::new(&live));
    stage.expect("a comment or an event at least every 15 s, also if only other topics have events");
    let mut quiet = live.open_stream(&other.map_or_else(String::new, |topic| format!("?topics={topic}")))?;
    let mut all = live.open_stream("")?;
    let deadline = Instant::now() + SILENT + SLACK;
    // Events that the stream does not want must not stand for a word to it.
    let busy = poster.and_then(Result::ok).map(|mut poster| {
        std::thread::spawn(move || {
            while Instant::now() < deadline && poster.try_event(0).is_ok() {
                std::thread::park_timeout(Duration::from_millis(200));
            }
        })
    });
    let began = Instant::now();
    let mut silent = true;
    // The first word is `retry`, which comes with the head.
    while silent {
        match quiet.next(deadline) {
            Sight::Frame(frame) => silent = frame.field("retry").is_some(),
            other => {
                return fail(format!(
                    "nothing came for {} ms on a stream without events of its topic{}",
                    began.elapsed().as_millis(),
                    if matches!(other, Sight::End(_)) { ", which then ended" } else { "" }
                ));
            }
        }
    }
    stage.observed(format!("a word after {} ms", began.elapsed().as_millis()));
    if let Some(busy) = busy {
        busy.thread().unpark();
    }
    let seen = follow(&mut all, Instant::now() + PROBE, |_| true);
    ensure!(seen.ending.is_none(), "a stream that the suite did not end has ended{}", seen.end());
    Ok(())
}
