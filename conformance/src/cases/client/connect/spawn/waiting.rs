//! One daemon a call, and whom the client waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use local_daemon_harness::actors::{Actor, Squatter};
use local_daemon_harness::files::{FileEventKind, Watch};
use local_daemon_harness::process::Signal;
use local_daemon_harness::wait::ms;

use super::{stale, with};
use crate::case::case;
use crate::fixtures::client::{
    Part, SOON, Spy, World, furnished, gone, not_started, play, play_published, publish, squat,
};
use crate::fixtures::daemon::count;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive};
use crate::stage::{Call, Caller, LATE, Stage};

/// The client's child ends with an error, ends without one, and hangs: it is started once in each call
/// (opencode#35455).
#[case("CONN-20")]
fn one_spawn_a_call(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("one start in each call");
    for (what, part) in [
        ("ends with an error", Part::Ends(1, "no luck")),
        ("ends without an error", Part::Ends(0, "nothing to do")),
        ("hangs", Part::Hangs),
    ] {
        let spy = Spy::new(stage, part)?;
        let answer = stage.ask(with(&spy).within(2))?;
        let starts = spy.starts().len();
        ensure!(starts == 1, "a child that {what} was started {starts} times: {answer}");
        stage.arena().end_leaks();
        spy.forget()?;
    }
    Ok(())
}

/// Three calls' children end with an error; the fourth call fails at once, starts nothing, and repeats what
/// the last child said (opencode#41696).
#[case("CONN-21")]
fn three_failures_then_no_more(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("spawn-failed at once, with the last child's words and no start");
    for words in ["the first excuse", "the second excuse", "the third excuse"] {
        let spy = Spy::new(stage, Part::Ends(1, words))?;
        let answer = stage.ask(with(&spy))?;
        answer.must_be("spawn-failed")?;
        spy.seen_started(stage)?;
        spy.forget()?;
    }
    let spy = Spy::new(stage, Part::Runs)?;
    let answer = stage.ask(with(&spy))?;
    not_started(stage, &spy, "after three that failed within a minute")?;
    answer.must_be("spawn-failed")?;
    let quick = answer.after < LATE;
    ensure!(quick, "not at once: {answer}");
    let said = answer.text().contains("the third excuse");
    ensure!(said, "what the last child said is not repeated: {answer}");
    Ok(())
}

/// The client's child starts slowly; meanwhile another daemon is published. The child yields, and the record
/// stays.
#[case("CONN-22")]
fn tells_its_child_to_yield(stage: &mut Stage) -> Outcome {
    let (world, _port) = stale(stage)?;
    stage.expect("the child ends, and the record stays");
    let spy = Spy::new(stage, Part::Waits)?;
    let caller = stage.call(with(&spy))?;
    let pid = spy.seen_started(stage)?;
    let other = play_published(stage, world.daemon())?;
    let answer = stage.answer(&caller)?;
    answer.must_be_ready_with(&other.daemon.id)?;
    let watch = Watch::on(stage.state_dir())?;
    spy.release()?;
    let gone = gone(pid);
    let name = stage.manifest().binding.registration.clone();
    let published = count(&watch.events(), FileEventKind::MovedTo, &name);
    ensure!(published == 0, "the child published over the daemon that was ready");
    ensure!(gone, "the child has not ended 5 s after it found a ready daemon");
    Ok(())
}

/// The record leads to a mute listener, and the client's child hangs: the listener is not asked again
/// (bazel#5858). Then a good daemon's record comes, and the client is ready with it.
#[case("CONN-23")]
fn leaves_the_old_record_alone_after_a_spawn(stage: &mut Stage) -> Outcome {
    let (world, _) = furnished(stage)?;
    stage.expect("nothing sent to the old record's address after the spawn");
    let spy = Spy::new(stage, Part::Hangs)?;
    let (old, _) = squat(stage, Squatter::answering(404, "{}"))?;
    let caller = stage.call(with(&spy))?;
    spy.seen_started(stage)?;
    let before = old.ledger().connections().len();
    ensure!(before > 0, "the record's address was not asked before the spawn");
    let asked = old.ledger().wait_for(ms(1_200), |taken| taken.len() > before);
    ensure!(asked.is_none(), "the old record's address was asked again after the spawn");
    let came = play_published(stage, world.daemon())?;
    let answer = stage.answer(&caller)?;
    answer.must_be_ready_with(&came.daemon.id)
}

/// The client's child hangs; a stranger's record comes, and then another daemon's.
#[case("CONN-24")]
fn takes_any_daemon_that_comes(stage: &mut Stage) -> Outcome {
    let (world, _port) = stale(stage)?;
    stage.expect("ready with the other daemon while the child hangs");
    let spy = Spy::new(stage, Part::Hangs)?;
    let caller = stage.call(with(&spy))?;
    spy.seen_started(stage)?;
    let (stranger, _) = squat(stage, Squatter::answering(404, "{}"))?;
    let asked = stranger.ledger().wait_request(Instant::now() + SOON);
    ensure!(asked.is_some(), "a record that came was not probed");
    let came = play_published(stage, world.daemon())?;
    let at = Instant::now();
    let answer = stage.answer(&caller)?;
    answer.must_be_ready_with(&came.daemon.id)?;
    let late = answer.exit.at.saturating_duration_since(at);
    ensure!(late < LATE, "{} ms after the record came: {answer}", late.as_millis());
    Ok(())
}

/// A daemon that answers as long as it is awake, and takes connections when it is not; its record is published.
fn sleeper(stage: &Stage, world: &World) -> Outcome<(Actor, Arc<AtomicBool>, String)> {
    let (daemon, awake) = (world.daemon(), Arc::new(AtomicBool::new(false)));
    let (id, wakes) = (daemon.id.clone(), Arc::clone(&awake));
    let part = Squatter::responding(move |seen, address| {
        let answer = awake.load(Ordering::SeqCst).then(|| daemon.answer(seen, address));
        answer.unwrap_or_default()
    });
    let (actor, record) = squat(stage, part)?;
    let of = id.clone();
    publish(stage, &record.with_id(of))?;
    Ok((actor, wakes, id))
}

/// Calls the client with a child that waits, before the record of a daemon that is asleep; wakes the daemon and lets the
/// child yield to it while the client is stopped.
fn yielded(stage: &mut Stage, spy: &Spy, awake: &AtomicBool, call: Call) -> Outcome<Caller> {
    let caller = stage.call(call)?;
    let Some(pid) = spy.started(caller.deadline) else {
        return Err(Stop::NotReady("the client started no daemon".to_owned()));
    };
    caller.signal(Signal::STOP)?;
    awake.store(true, Ordering::SeqCst);
    spy.release()?;
    if !gone(pid) {
        return inconclusive("the child does not yield");
    }
    stage.precondition(
        "the record's daemon was silent and answered then; while the client was stopped, its child yielded",
    );
    Ok(caller)
}

/// The record's daemon is silent, answers the client's child, which yields with status 0, and is silent
/// again: that is no failed spawn.
#[case("CONN-25")]
fn a_child_that_yields_is_no_failure(stage: &mut Stage) -> Outcome {
    let (world, _) = furnished(stage)?;
    stage.expect("another outcome than spawn-failed");
    let spy = Spy::new(stage, Part::Waits)?;
    let (_actor, awake, _) = sleeper(stage, &world)?;
    let caller = yielded(stage, &spy, &awake, with(&spy).within(5))?;
    awake.store(false, Ordering::SeqCst);
    caller.signal(Signal::CONT)?;
    let answer = stage.answer(&caller)?;
    let failed = answer.outcome == "spawn-failed";
    ensure!(!failed, "although the child ended with status 0: {answer}");
    Ok(())
}

/// The record's daemon is silent until the client has started a child, and answers then: the child yields to
/// it, the record does not change, and the client is ready with it.
#[case("CONN-25")]
fn goes_to_the_daemon_that_its_child_yielded_to(stage: &mut Stage) -> Outcome {
    let (world, _) = furnished(stage)?;
    stage.expect("ready with the daemon of the record");
    let spy = Spy::new(stage, Part::Waits)?;
    let (_actor, awake, id) = sleeper(stage, &world)?;
    let caller = yielded(stage, &spy, &awake, with(&spy))?;
    caller.signal(Signal::CONT)?;
    let answer = stage.answer(&caller)?;
    answer.must_be_ready_with(&id)
}

/// The client's child ends with an error at once, and after a while: the call ends with it.
#[case("CONN-26")]
fn a_failed_child_is_known_at_once(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("spawn-failed as soon as the child has ended");
    let spy = Spy::new(stage, Part::Ends(1, "no luck"))?;
    let caller = stage.call(with(&spy))?;
    let pid = spy.seen_started(stage)?;
    ends_with_its_child(stage, pid, &caller)?;
    spy.forget()?;
    let spy = Spy::new(stage, Part::WaitsAndEnds(3))?;
    let caller = stage.call(with(&spy))?;
    let pid = spy.seen_started(stage)?;
    // The client is waiting by now, or will be: either way it hears of the end only while it waits.
    spy.release()?;
    ends_with_its_child(stage, pid, &caller)
}

fn ends_with_its_child(stage: &mut Stage, pid: u32, caller: &Caller) -> Outcome {
    if !gone(pid) {
        return Err(Stop::Fault("the spy does not end".to_owned()));
    }
    let at = Instant::now();
    let answer = stage.answer_by(caller, at + Duration::from_secs(2))?;
    match answer {
        Some(answer) => answer.must_be("spawn-failed"),
        None => fail("the client still waits 2 s after its child ended with an error"),
    }
}

/// While the client is stopped, a daemon is published and the client's child ends with an error.
#[case("CONN-26")]
fn another_daemon_makes_up_for_a_failed_child(stage: &mut Stage) -> Outcome {
    let (world, _port) = stale(stage)?;
    stage.expect("ready with the other daemon");
    let spy = Spy::new(stage, Part::WaitsAndEnds(1))?;
    let came = play(stage, world.daemon())?;
    let caller = stage.call(with(&spy))?;
    let pid = spy.seen_started(stage)?;
    caller.signal(Signal::STOP)?;
    spy.release()?;
    if !gone(pid) {
        return Err(Stop::Fault("the spy does not end".to_owned()));
    }
    // The client hears of the end before it hears of the record.
    publish(stage, &came.record)?;
    stage.precondition("while the client was stopped, its child failed and a daemon was published");
    caller.signal(Signal::CONT)?;
    let answer = stage.answer(&caller)?;
    answer.must_be_ready_with(&came.daemon.id)
}

/// The client's child says why it cannot start.
#[case("CONN-27")]
fn repeats_the_childs_error(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("the child's own words in the error");
    let words = "cannot listen: the address 127.0.0.1:47 is in use";
    let spy = Spy::new(stage, Part::Ends(1, words))?;
    let answer = stage.ask(with(&spy))?;
    spy.seen_started(stage)?;
    let said = answer.text().contains(words);
    ensure!(said, "the child said {words}, the client {answer}", words = in_words(&words));
    Ok(())
}
