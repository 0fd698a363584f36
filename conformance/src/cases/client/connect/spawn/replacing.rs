//! Another daemon in the place of one that is there.

use std::time::{Duration, Instant};

use local_daemon_harness::files::{FileEventKind, Snapshot, Watch};
use local_daemon_harness::platform::make_fifo;
use local_daemon_harness::wait::until;

use super::{not_executable, running};
use crate::case::case;
use crate::fixtures::client::{SOON, World, bystander, furnished, lives, play_published};
use crate::fixtures::daemon::count;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive, not_applicable};
use crate::stage::{Answer, Call, Command, ReadyDaemon, Stage};

/// The record's daemon speaks the client's protocol with a lower number: the client starts one that publishes
/// over it. No signal reaches the recorded process, the name is never free, and the old daemon is sent
/// nothing but handshakes.
#[case("CONN-34")]
fn displaces_by_publishing_alone(stage: &mut Stage) -> Outcome {
    let world = World::new(stage)?;
    stage.expect("ready with a new daemon whose record took the old one's place");
    let (name, _) = world.protocol.split_once('/').unwrap_or_default();
    let (ours, theirs) = (format!("{name}/7"), format!("{name}/6"));
    let decoy = bystander(stage)?;
    let old = world.daemon().protocol(theirs).pid(decoy.pid());
    let old = play_published(stage, old)?;
    let watch = Watch::on(stage.state_dir())?;
    let answer = stage.ask(Call::spawn().protocol(ours))?;
    stage.precondition("a daemon of the client's protocol with a lower number was published");
    ensure!(
        answer.outcome == "ready" && answer.id.as_ref() != Some(&old.daemon.id),
        "not ready with another daemon but {answer}"
    );
    let now = stage.find(stage.state_dir()).map(|live| live.record.id);
    let its_own = now.is_ok() && now.as_ref().ok() == answer.id.as_ref();
    ensure!(its_own, "no daemon of the answered id is there: {now}", now = in_words(&now));
    lives(&decoy, "when the client displaced its daemon")?;
    let name = stage.manifest().binding.registration.clone();
    let events = watch.events();
    let free =
        count(&events, FileEventKind::Deleted, &name) + count(&events, FileEventKind::MovedFrom, &name);
    ensure!(free == 0, "the old record was removed before the new one came");
    let handshake = stage.manifest().binding.handshake.path.clone();
    let other = old.actor.ledger().requests().into_iter().find(|seen| seen.target != handshake);
    ensure!(other.is_none(), "the old daemon was sent {}", in_words(&other.map(|seen| seen.target)));
    Ok(())
}

/// A client that is told to replace meets a daemon of another name: one of its own is started and publishes
/// over it.
#[case("CONN-34")]
fn displaces_when_told_to(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("ready with a daemon of its own, whose record took the old one's place");
    let protocol = "another/9".to_owned();
    let old = play_published(stage, world.daemon().protocol(protocol))?;
    let watch = Watch::on(stage.state_dir())?;
    let answer = stage.ask(Call::spawn().replacing())?;
    let own = answer.outcome == "ready" && answer.id.as_ref() != Some(&old.daemon.id);
    ensure!(own, "not ready with a daemon of its own but {answer}");
    let now = stage.find(stage.state_dir()).map(|live| live.record.id);
    let its_own = now.is_ok() && now.as_ref().ok() == answer.id.as_ref();
    ensure!(its_own, "no daemon of the answered id is there: {now}", now = in_words(&now));
    let name = stage.manifest().binding.registration.clone();
    let events = watch.events();
    let free =
        count(&events, FileEventKind::Deleted, &name) + count(&events, FileEventKind::MovedFrom, &name);
    ensure!(free == 0, "the old record was removed before the new one came");
    Ok(())
}

/// A throwaway daemon is asked for beside a good one: the shared state directory stays as it is, and after
/// the client's end no process and no directory is left.
#[case("CONN-35")]
fn private_leaves_no_trace(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("ready with a daemon of its own, the shared directory as it was, and nothing left");
    let before = Snapshot::of(stage.state_dir())?;
    let heard = good.actor.ledger().connections().len();
    let answer = stage.ask(Call::new(Command::Private))?;
    let own = answer.outcome == "ready" && answer.id.as_ref() != Some(&good.daemon.id);
    ensure!(own, "not ready with a daemon of its own but {answer}");
    let changes = before.diff(&Snapshot::of(stage.state_dir())?);
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    ensure!(changes.is_empty(), "the shared state directory: {}", changes.join(", "));
    let more = good.actor.ledger().connections().len() - heard;
    ensure!(more == 0, "the shared daemon was asked");
    let gone = until(Instant::now() + SOON, || stage.arena().leaks().is_empty().then_some(()));
    let left: Vec<String> = stage.arena().leaks().iter().map(ToString::to_string).collect();
    ensure!(gone.is_some(), "left running: {}", left.join(", "));
    for place in ["tmp", "run", "home"] {
        let snapshot = Snapshot::of(&stage.arena().path().join(place))?;
        let left = snapshot.0.keys().find(|path| {
            let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
            name == stage.manifest().binding.registration || name == stage.manifest().binding.credential
        });
        ensure!(
            left.is_none(),
            "left behind: {}/{}",
            place,
            in_words(&left.map(|path| path.display().to_string()))
        );
    }
    Ok(())
}

/// A restart of a daemon that runs, and of one that is stopped (SIGSTOP), ends ready with another id
/// (opencode#37795).
#[case("CONN-36")]
fn restart_means_another_daemon(stage: &mut Stage) -> Outcome {
    if stage.manifest().daemon.run.is_empty() {
        return not_applicable("the subject has no daemon to restart");
    }
    stage.expect("ready with another id, at the daemon that is there");
    let (daemon, live) = stage.launch_ready()?;
    let answer = stage.ask(Call::new(Command::Restart))?;
    let second = restarted(stage, &answer, &live.record.id, "of a daemon that runs")?;
    let pid = u32::try_from(second.record.pid).unwrap_or_default();
    drop(daemon);
    let all = stage.arena().processes();
    let Some(process) = all.into_iter().find(|process| process.pid == pid) else {
        return inconclusive("the restarted daemon is not a process of this case");
    };
    process.halt();
    stage.precondition("the restarted daemon is stopped (SIGSTOP)");
    let caller = stage.call(Call::new(Command::Restart))?;
    // It has to wait for the silent one, and then to start another one.
    let Some(answer) = stage.answer_by(&caller, caller.began + Duration::from_secs(25))? else {
        return fail("the restart of a stopped daemon has not ended after 25 s");
    };
    if answer.exit.code == Some(0) || answer.outcome == "ready" {
        restarted(stage, &answer, &second.record.id, "of a daemon that is stopped")?;
    }
    Ok(())
}

/// A restart that reports success leaves a daemon of another id, and names it.
pub(super) fn restarted(
    stage: &mut Stage,
    answer: &Answer,
    before: &str,
    what: &str,
) -> Outcome<ReadyDaemon> {
    let success = answer.exit.code == Some(0);
    ensure!(success, "the restart {what}: {answer}");
    let live = match stage.find(stage.state_dir()) {
        Ok(live) => live,
        Err(why) => {
            return fail(format!("the restart {what}: {answer}, and no daemon is ready: {why}"));
        }
    };
    let other = live.record.id != before && answer.id.as_deref() != Some(before);
    ensure!(other, "the restart {what}: the daemon is the one from before: {answer}");
    Ok(live)
}

/// A daemon is to be restarted while the program that would be started is not there or may not be executed, and while
/// the log is a FIFO. A restart without these has succeeded before.
#[case("CONN-50")]
fn restart_that_cannot_start_stops_nothing(stage: &mut Stage) -> Outcome {
    if stage.client()?.daemon.is_none() {
        return not_applicable("the manifest has no `client.daemon`");
    }
    stage.expect("no success, and the running daemon of the same id, ready");
    let answer = stage.ask(Call::spawn())?;
    let first = running(stage, &answer)?;
    let answer = stage.ask(Call::new(Command::Restart))?;
    let live = restarted(stage, &answer, &first.record.id, "of a daemon that runs")?;
    stage.control("a restart put another daemon in its place");
    let left = |stage: &Stage, answer: &Answer, what: &str| -> Outcome {
        ensure!(live.is_ready(), "{what}: the daemon does not run any more: {answer}");
        let same = stage.find(stage.state_dir()).is_ok_and(|now| now.record.id == live.record.id);
        ensure!(same, "{what}: another daemon is there: {answer}");
        let success = answer.exit.code == Some(0) || answer.outcome == "ready";
        ensure!(!success, "{what}: the restart says {answer}");
        Ok(())
    };
    for (what, program) in not_executable(stage)? {
        let answer = stage.ask(Call::new(Command::Restart).stand(program))?;
        left(stage, &answer, what)?;
    }
    let log = stage.log_path();
    if !log.is_file() {
        stage.observed("the client keeps no log there: only the program was judged");
        return Ok(());
    }
    std::fs::remove_file(&log)?;
    make_fifo(&log)?;
    let answer = stage.ask(Call::new(Command::Restart))?;
    left(stage, &answer, "with a FIFO as log")
}

/// The daemon that is to be restarted proves itself, refuses to stop, and stays ready: no success is
/// reported.
#[case("CONN-36")]
fn no_restart_no_success(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("no success");
    let answer = stage.ask(Call::new(Command::Restart))?;
    let same = stage.find(stage.state_dir()).is_ok_and(|live| live.record.id == good.daemon.id);
    let success = answer.exit.code == Some(0) || answer.outcome == "ready";
    ensure!(!(same && success), "the same daemon is ready, and the restart says {answer}");
    Ok(())
}
