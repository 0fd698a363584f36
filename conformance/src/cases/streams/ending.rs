//! The last word.

use std::time::Instant;

use local_daemon_harness::http::HttpFault;
use local_daemon_harness::process::Signal;
use local_daemon_harness::sse::{Ending, EventStream};

use crate::case::case;
use crate::fixtures::daemon::{NOTICED, Rival, SLACK, further_state_dir, record_in, signal};
use crate::fixtures::stream::{MOST_BYTES, Poster, SEEN, brief, to_the_end};
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{ReadyDaemon, Stage, Start};

/// Streams that are open at a daemon: of everything, of one topic without events of the suite if there is one, from the beginning, and one that has read nothing yet.
fn several(live: &ReadyDaemon) -> Outcome<Vec<(&'static str, EventStream)>> {
    let quiet = live.other_topics()?.pop();
    let topic = quiet.map_or_else(|| live.topic(), Ok)?;
    Ok(vec![
        ("of everything", live.open_stream("")?),
        ("of one topic", live.open_stream(&format!("?topics={topic}"))?),
        ("from the beginning", live.stream_from_the_beginning("")?),
        ("over a narrow connection", live.stalled_stream("")?),
    ])
}

/// Each of them ends with this word, and as HTTP asks.
fn last_word(
    stage: &mut Stage,
    how: &str,
    word: &str,
    streams: Vec<(&'static str, EventStream)>,
    deadline: Instant,
) -> Outcome {
    for (what, mut stream) in streams {
        let seen = to_the_end(&mut stream, deadline);
        let told = seen.events.last().is_some_and(|event| event.name == word)
            && seen.events.iter().filter(|event| event.name == word).count() == 1;
        ensure!(told, "{how}, a stream {what}: {}{}", brief(&seen.events), seen.end());
        let is_clean = seen.ending == Some(Ending::Clean);
        ensure!(is_clean, "{how}, a stream {what} does not end as HTTP asks after {word}{}", seen.end());
    }
    stage.observed(format!("{how}: {word}, then the end, on each stream"));
    Ok(())
}

/// A daemon is displaced, by another and by a mere record: `superseded` is the last event on four streams,
/// which then end as HTTP asks.
#[case("STR-28", deadline_s = 30)]
fn superseded_is_the_last_word(stage: &mut Stage) -> Outcome {
    stage.expect("`superseded` as the last event and then the end of the body, on every stream");
    let (first, live) = stage.launch_ready()?;
    let streams = several(&live)?;
    let second = stage.launch()?;
    let live = stage.ready(&second)?;
    let deadline = Instant::now() + NOTICED + SEEN;
    last_word(stage, "a second daemon", "superseded", streams, deadline)?;
    drop(first);

    let streams = several(&live)?;
    let rival = Rival::new()?;
    rival.publish(&stage.record_path())?;
    stage.precondition("the record became that of a daemon that does not answer");
    let deadline = Instant::now() + NOTICED + SEEN;
    last_word(stage, "another's record", "superseded", streams, deadline)
}

/// A daemon is stopped by two signals and by the removal of its record: `shutdown` is the last event on four
/// streams, which then end as HTTP asks.
#[case("STR-29", deadline_s = 30)]
fn shutdown_is_the_last_word(stage: &mut Stage) -> Outcome {
    stage.expect("`shutdown` as the last event and then the end of the body, on every stream");
    for how in ["SIGTERM", "SIGINT", "its record was removed"] {
        let state_dir = further_state_dir(stage, how.split(' ').next().unwrap_or(how))?;
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let live = stage.ready(&daemon)?;
        let streams = several(&live)?;
        match how {
            "SIGTERM" => drop(signal(&daemon, Signal::TERM)?),
            "SIGINT" => drop(signal(&daemon, Signal::INT)?),
            _ => std::fs::remove_file(record_in(stage, &state_dir))?,
        }
        let deadline = Instant::now() + NOTICED + SEEN;
        last_word(stage, how, "shutdown", streams, deadline)?;
        daemon.kill_group();
    }
    Ok(())
}

/// A daemon is stopped and one is displaced while subscribers read nothing: after the drain bound all streams have ended
/// (buck2: row 12).
#[case("STR-30", deadline_s = 45)]
fn ends_in_the_drain_bound(stage: &mut Stage) -> Outcome {
    stage.expect("every stream has ended within the drain bound, read or not, and so has the daemon");
    let mut daemons = Vec::new();
    for how in ["stopped", "displaced"] {
        let state_dir = further_state_dir(stage, how)?;
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let live = stage.ready(&daemon)?;
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(live.stalled_stream("")?);
        }
        streams.push(live.open_stream("")?);
        Poster::new(&live)?.bulk(MOST_BYTES)?;
        stage.precondition(format!("{how}: 6 subscribers have not read 4 MiB of events, and never will"));
        daemons.push((how, daemon, streams));
    }
    let rival = Rival::new()?;
    signal(&daemons[0].1, Signal::TERM)?;
    rival.publish(&record_in(stage, &daemons[1].1.state_dir))?;
    let began = Instant::now();
    for (how, daemon, streams) in daemons {
        let noticed = if how == "displaced" { NOTICED } else { SLACK };
        let deadline = began + noticed + stage.manifest().daemon.drain() + SLACK;
        let Some(exit) = daemon.wait_exit(deadline) else {
            return fail(format!("{how}, it is still there after its drain bound"));
        };
        let after = exit.at.saturating_duration_since(began).as_millis();
        stage.observed(format!("{how}: {exit} after {after} ms"));
        // What had left the daemon may still be read; the end is not far behind.
        for mut stream in streams {
            let seen = to_the_end(&mut stream, Instant::now() + SEEN);
            let ended = matches!(
                seen.ending,
                Some(
                    Ending::Clean
                        | Ending::WithinFrame
                        | Ending::Cut(HttpFault::Closed(_) | HttpFault::Reset)
                )
            );
            ensure!(ended, "{how}, a stream has not ended{}", seen.end());
        }
    }
    Ok(())
}
