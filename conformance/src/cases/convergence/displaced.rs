//! Displaced: leaving to the one that took over.

use std::time::{Duration, Instant};

use local_daemon_harness::files::{Facts, FileEventKind, Watch};
use local_daemon_harness::http::{Connection, HttpFault};
use local_daemon_harness::process::Signal;
use local_daemon_harness::record::{Record, replace};
use local_daemon_harness::wait::ms;

use super::{displace, displaced_for_good, drained};
use crate::case::case;
use crate::fixtures::daemon::{
    NOTICED, Rival, SLACK, changes, count, exits, further_state_dir, read, record_in, signal, stays,
};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive};
use crate::stage::{Daemon, ReadyDaemon, Stage, Start};

/// Stops `first` (SIGSTOP) and lets a second daemon take over.
fn taken_over_while_stopped(
    stage: &mut Stage,
    first: &Daemon,
    meanwhile: impl FnOnce(&mut Stage) -> Outcome,
) -> Outcome<(Daemon, ReadyDaemon)> {
    first.stop()?;
    stage.precondition(format!("{} was seen stopped", first.name));
    meanwhile(stage)?;
    stage.launch_ready()
}

/// A daemon is stopped (SIGSTOP), a second one takes over, and the first goes on (SIGCONT).
#[case("CONV-7", "CONV-9")]
fn stopped_through_a_displacement(stage: &mut Stage) -> Outcome {
    let (first, _) = stage.launch_ready()?;
    let (second, new) = taken_over_while_stopped(stage, &first, |_| Ok(()))?;
    // Longer than any interval at which it looks: a pause that it can notice.
    stays(&second, NOTICED, "beside a stopped predecessor")?;
    successor_is_left_alone(&first, &new)
}

/// While a daemon is stopped (SIGSTOP) it is asked to end (SIGTERM) and a second one takes over; then the
/// first goes on. Stems from khive#645 and stablyai/orca#12709.
#[case("CONV-14", "CONV-9")]
fn asked_to_stop_after_a_displacement(stage: &mut Stage) -> Outcome {
    let (first, _) = stage.launch_ready()?;
    let (_second, new) = taken_over_while_stopped(stage, &first, |_| signal(&first, Signal::TERM).map(drop))?;
    successor_is_left_alone(&first, &new)
}

/// Lets `first` go on: it must leave in time and leave the record of `new` alone.
fn successor_is_left_alone(first: &Daemon, new: &ReadyDaemon) -> Outcome {
    let name = new.manifest().binding.registration.clone();
    let facts = Facts::of(&new.record_path())?;
    let watch = Watch::on(new.state_dir())?;
    new.expect("it leaves within its bound, and the successor's record sees no event");
    first.cont()?;
    let at = Instant::now();
    let deadline = at + NOTICED.max(new.manifest().daemon.stand_down_timeout()) + SLACK;
    let exit = exits(first, deadline, "it went on after a displacement")?;
    new.observed(format!("{exit} after {} ms", exit.at.saturating_duration_since(at).as_millis()));
    let touched = changes(&watch.events(), &name);
    let same = Facts::of(&new.record_path()).is_ok_and(|now| now.ino == facts.ino);
    ensure!(
        same && touched.is_empty(),
        "its successor's record was touched: {touched}",
        touched = in_words(&touched)
    );
    ensure!(new.is_ready(), "the successor is not ready any more");
    Ok(())
}

/// A daemon is displaced with a stream that nobody reads, a request that never ends, an idle connection and
/// half a request head open. Stems from OpenCoven/coven#242 and buck2@13baa8a1d1.
#[case("CONV-8", idle, deadline_s = 60)]
fn displaced_exits_with_work_open(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let idle = live.open(b"")?;
    let half = live.open(b"GET / HT")?;
    let work = match live.open_work() {
        Ok(work) => Some(work),
        Err(Stop::Untestable(_) | Stop::NotApplicable(_)) => None,
        Err(stop) => return Err(stop),
    };
    stage.precondition("open at the daemon: an idle connection and half a request head");
    stage.expect("it ends by itself within its re-read interval and its drain bound");
    let at = displace(stage, &Rival::new()?)?;
    // From its event stream it is known when it began; otherwise, when it must have noticed.
    let told = work.as_ref().is_some_and(|work| work.is_told(at + NOTICED));
    let began = if told { Instant::now() } else { at + NOTICED };
    let deadline = began + stage.manifest().daemon.drain() + 2 * SLACK;
    let exit = exits(&daemon, deadline, "its drain bound, displaced")?;
    stage.observed(format!("{exit} after {} ms", exit.at.saturating_duration_since(at).as_millis()));
    drop((idle, half));
    Ok(())
}

/// Another's record is renamed into place; every event about it is looked at until the displaced daemon is
/// gone.
#[case("CONV-9")]
fn displaced_leaves_the_record_alone(stage: &mut Stage) -> Outcome {
    let (daemon, _) = stage.launch_ready()?;
    let name = stage.manifest().binding.registration.clone();
    let rival = Rival::new()?;
    let watch = Watch::on(stage.state_dir())?;
    stage.expect("the suite's own rename is the only event about the record");
    displace(stage, &rival)?;
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(&daemon, deadline, "a displacement")?;
    let events =
        watch.wait_for(stage.ready_deadline(), |events| count(events, FileEventKind::MovedTo, &name) > 0);
    let Some(events) = events else {
        return inconclusive("the suite's own rename was not seen");
    };
    let touched = changes(&events, &name);
    stage.observed(format!("events about the record: {touched}", touched = in_words(&touched)));
    let same = std::fs::read(stage.record_path()).is_ok_and(|bytes| bytes == rival.bytes());
    ensure!(
        same && touched.len() == 1,
        "the successor's record was touched: {touched}",
        touched = in_words(&touched)
    );
    Ok(())
}

/// A displaced daemon that still has work open is sent a request with an effect, on a new connection and on
/// one that it had accepted before. Stems from buck2@13baa8a1d1.
#[case("CONV-10", deadline_s = 30)]
fn no_new_work(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let request = live.mutation()?;
    match live.send(&request) {
        Ok(answer) if (200..300).contains(&answer.status) => {
            stage.control(format!("the request was answered {} before", answer.status));
        }
        Ok(answer) => {
            return inconclusive(format!("the request in its good form: answered {}", answer.status));
        }
        Err(fault) => return inconclusive(format!("the request in its good form: {fault}")),
    }
    let mut kept = Connection::open(live.target.address, stage.ready_deadline())
        .map_err(|fault| Stop::Inconclusive(fault.to_string()))?;
    let before = kept.exchange(&live.target.bearing(&live.credential).bytes(), stage.ready_deadline());
    let kept = before.is_ok_and(|answer| answer.status == 200 && !answer.closes).then_some(kept);
    let work = live.open_work()?;
    stage.expect("it is answered 503, or finds no connection");
    displaced_for_good(stage, &daemon, &live, &work)?;
    let mut answers = vec![("a new connection", live.send(&request))];
    if let Some(mut kept) = kept {
        let answer = kept.exchange(&request.bytes(), stage.ready_deadline());
        answers.push(("the connection from before", answer));
    }
    let is_there = daemon.is_running();
    for (what, answer) in answers {
        match answer {
            Ok(answer) if answer.status == 503 => stage.observed(format!("{what}: answered 503")),
            Ok(answer) => return fail(format!("{what}: answered {}", answer.status)),
            Err(HttpFault::Refused | HttpFault::Reset | HttpFault::Closed(0)) if is_there => {
                stage.observed(format!("{what}: no connection"));
            }
            Err(fault) if is_there => return fail(format!("{what}: {fault}")),
            Err(_) => return inconclusive("it ended while it was asked: its drain bound is too short"),
        }
    }
    Ok(())
}

/// A daemon is displaced with work open; then its own record, and a taken file with its id, are put back.
#[case("CONV-11", deadline_s = 30)]
fn own_record_returns_in_vain(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let own = read(&stage.record_path())?;
    let name = stage.manifest().binding.registration.clone();
    let work = live.open_work()?;
    displaced_for_good(stage, &daemon, &live, &work)?;
    stage.expect("it is never ready again, publishes nothing, and ends");
    let watch = Watch::on(stage.state_dir())?;
    replace(&stage.record_path(), &own, 0o600)?;
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut looks = 0;
    while Instant::now() < deadline && daemon.is_running() {
        let ready = live.is_ready();
        ensure!(!ready, "it is ready again with its own record back");
        looks += usize::from(daemon.is_running());
        daemon.wait_exit(ms(50));
    }
    if looks == 0 {
        return inconclusive("it had ended when its own record was back: its drain bound is too short");
    }
    stage.precondition(format!("it was asked {looks} times with its own record back"));
    let taken = stage.state_dir().join(format!("{name}.taken-{}-returned", Rival::new()?.record.id));
    std::fs::rename(stage.record_path(), taken)?;
    // Nothing else renames the record into place now.
    daemon.wait_exit(ms(300));
    if daemon.is_running() {
        signal(&daemon, Signal::TERM)?;
        daemon.wait_exit(ms(300));
    }
    if daemon.is_running() {
        signal(&daemon, Signal::TERM)?;
    }
    let deadline = drained(stage);
    exits(&daemon, deadline, "its drain bound")?;
    let published = count(&watch.events(), FileEventKind::MovedTo, &name);
    ensure!(published == 1, "it published again: {}", in_words(&changes(&watch.events(), &name)));
    Ok(())
}

/// An idle daemon is displaced by another's record.
#[case("CONV-12")]
fn exit_status_of_the_displaced(stage: &mut Stage) -> Outcome {
    let (daemon, _) = stage.launch_ready()?;
    stage.expect("exit status 20");
    displace(stage, &Rival::new()?)?;
    let deadline = stage.stand_down_deadline() + SLACK;
    let exit = exits(&daemon, deadline, "a displacement")?;
    ensure!(exit.code == Some(20), "{exit}");
    Ok(())
}

/// Daemons end by a signal, by the removal of their record, and by the removal of their directory.
#[case("CONV-33")]
fn exit_status_of_the_rest(stage: &mut Stage) -> Outcome {
    stage.expect("exit status 0 each time");
    for way in [
        "a signal",
        "the removal of its record",
        "the removal of its directory",
    ] {
        let state_dir = further_state_dir(stage, way)?;
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        stage.ready(&daemon)?;
        match way {
            "a signal" => signal(&daemon, Signal::TERM).map(drop)?,
            "the removal of its record" => std::fs::remove_file(record_in(stage, &state_dir))?,
            _ => std::fs::remove_dir_all(&state_dir)?,
        }
        let deadline = stage.stand_down_deadline() + SLACK;
        let exit = exits(&daemon, deadline, way)?;
        ensure!(exit.code == Some(0), "after {way}: {exit}");
    }
    Ok(())
}

/// Eight daemons are started at the same time on one state directory. Stems from opencode#35964 and biome
/// 2.6.
#[case("CONV-13", "CONV-9", no_leaks, deadline_s = 40)]
fn eight_at_once(stage: &mut Stage) -> Outcome {
    const CONTENDERS: usize = 8;
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let name = stage.manifest().binding.registration.clone();
    let watch = Watch::on(&state_dir)?;
    stage.expect("each publishes once; all but one end by themselves; the one that stays owns the record");
    let daemons = (0..CONTENDERS).map(|_| stage.launch()).collect::<Outcome<Vec<Daemon>>>()?;
    let published = watch.wait_for(stage.ready_deadline(), |events| {
        count(events, FileEventKind::MovedTo, &name) >= CONTENDERS
    });
    let Some(published) = published else {
        let seen = count(&watch.events(), FileEventKind::MovedTo, &name);
        stage.precondition(format!("{CONTENDERS} daemons were started"));
        return fail(format!("{seen} of them published"));
    };
    let last = published.last().map_or_else(Instant::now, |event| event.at);
    stage.precondition(format!("{CONTENDERS} publishes were seen"));
    let owner = Record::parse(&read(&stage.record_path())?)
        .map_err(|fault| Stop::Violation(format!("the record after the last publish: {fault}")))?;
    let deadline = last + NOTICED + stage.manifest().daemon.stand_down_timeout() + SLACK;
    let is_owner = |daemon: &&Daemon| daemon.tree().iter().any(|p| p.pid == owner.pid.unsigned_abs());
    let Some(survivor) = daemons.iter().find(is_owner) else {
        return fail(format!("no running daemon has the recorded pid {}", owner.pid));
    };
    for daemon in daemons.iter().filter(|daemon| daemon.name != survivor.name) {
        exits(daemon, deadline, "it was displaced")?;
    }
    let live = match stage.ready(survivor) {
        Ok(live) => live,
        Err(Stop::Violation(why)) => return fail(format!("the owner of the record: {why}")),
        Err(stop) => return Err(stop),
    };
    ensure!(
        live.record.id == owner.id && survivor.is_running(),
        "the last one to publish is not the one that stayed"
    );
    let events = watch.events();
    let others: Vec<FileEventKind> = changes(&events, &name)
        .into_iter()
        .filter(|change| *change != FileEventKind::MovedTo)
        .collect();
    stage.observed(format!(
        "{} stayed; changes other than the publishes: {others}",
        survivor.name,
        others = in_words(&others)
    ));
    ensure!(others.is_empty(), "the record was touched: {others}", others = in_words(&others));
    ensure!(
        count(&events, FileEventKind::MovedTo, &name) == CONTENDERS,
        "a displaced daemon published again"
    );
    Ok(())
}
