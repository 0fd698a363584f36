//! Connect-or-spawn, the child, and what displaces: chapter 09, its second half.

mod detached;
mod replacing;
mod turns;
mod waiting;

use local_daemon_harness::process::Proc;
use local_daemon_harness::record::{Record, Url};

use super::super::scene::{DeadPort, NOBODYS_PID};
use super::scene::{Spy, World, furnished, publish, ready_with};
use crate::case::Case;
use crate::outcome::Outcome;
use crate::stage::{Answer, Call, Live, Stage};

/// The cases of the chapter's second half.
pub(crate) const CASES: &[Case] = &[
    Case::client(
        "connect/no-second-daemon-beside-a-draining-one",
        &["CONN-13"],
        "The record's daemon is draining; nothing is started while it is. Then its record is gone and no successor has \
         come: a daemon is started.",
        turns::no_second_daemon_beside_a_draining_one,
    ),
    Case::client(
        "connect/reads-again-before-it-spawns",
        &["CONN-14"],
        "While the probe of a stranger is under way, a good daemon's record takes its record's place: nothing is started.",
        turns::reads_again_before_it_spawns,
    ),
    Case::client(
        "connect/many-callers-one-daemon",
        &["CONN-15"],
        "Eight calls at once on a state directory without a record, with a stale one and with a stranger's: all of them \
         end ready on one id (sccache#340, sccache#824).",
        turns::many_callers_one_daemon,
    )
    .deadline_s(60),
    Case::client(
        "connect/waits-for-the-lock",
        &["CONN-16"],
        "The advisory lock is held for 400 ms: until then no daemon is started, afterwards one is.",
        turns::waits_for_the_lock,
    ),
    Case::client(
        "connect/goes-on-without-the-lock",
        &["CONN-17"],
        "The advisory lock is held for good, and then cannot be opened: a daemon is started all the same.",
        turns::goes_on_without_the_lock,
    ),
    Case::client(
        "connect/looks-again-under-the-lock",
        &["CONN-18"],
        "While the client waits for the advisory lock, a daemon's record is published, and then the lock let go.",
        turns::looks_again_under_the_lock,
    ),
    Case::client(
        "connect/gives-the-lock-back",
        &["CONN-19"],
        "The client's child hangs: the advisory lock is free again after a second, while the client still waits. A child \
         that becomes ready does not keep it.",
        turns::gives_the_lock_back,
    ),
    Case::client(
        "connect/one-spawn-a-call",
        &["CONN-20"],
        "The client's child ends with an error, ends without one, and hangs: it is started once in each call \
         (opencode#35455).",
        waiting::one_spawn_a_call,
    ),
    Case::client(
        "connect/three-failures-then-no-more",
        &["CONN-21"],
        "Three calls' children end with an error; the fourth call fails at once, starts nothing, and repeats what the last \
         child said (opencode#41696).",
        waiting::three_failures_then_no_more,
    ),
    Case::client(
        "connect/tells-its-child-to-yield",
        &["CONN-22"],
        "The client's child starts slowly; meanwhile another daemon is published. The child yields, and the record stays.",
        waiting::tells_its_child_to_yield,
    ),
    Case::client(
        "connect/leaves-the-old-record-alone-after-a-spawn",
        &["CONN-23"],
        "The record leads to a mute listener, and the client's child hangs: the listener is not asked again \
         (bazel#5858). Then a good daemon's record comes, and the client is ready with it.",
        waiting::leaves_the_old_record_alone,
    ),
    Case::client(
        "connect/takes-any-daemon-that-comes",
        &["CONN-24"],
        "The client's child hangs; a stranger's record comes, and then another daemon's.",
        waiting::takes_any_daemon_that_comes,
    ),
    Case::client(
        "connect/a-child-that-yields-is-no-failure",
        &["CONN-25"],
        "The record's daemon is silent, answers the client's child, which yields with status 0, and is silent again: that \
         is no failed spawn.",
        waiting::a_child_that_yields_is_no_failure,
    ),
    Case::client(
        "connect/goes-to-the-daemon-that-its-child-yielded-to",
        &["CONN-25"],
        "The record's daemon is silent until the client has started a child, and answers then: the child yields to it, the \
         record does not change, and the client is ready with it.",
        waiting::goes_where_its_child_yielded,
    ),
    Case::client(
        "connect/a-failed-child-is-known-at-once",
        &["CONN-26"],
        "The client's child ends with an error at once, and after a while: the call ends with it.",
        waiting::a_failed_child_is_known_at_once,
    ),
    Case::client(
        "connect/another-daemon-makes-up-for-a-failed-child",
        &["CONN-26"],
        "While the client is stopped, a daemon is published and the client's child ends with an error.",
        waiting::another_daemon_makes_up,
    ),
    Case::client(
        "connect/repeats-the-childs-error",
        &["CONN-27"],
        "The client's child says why it cannot start.",
        waiting::repeats_the_childs_error,
    ),
    Case::client(
        "connect/the-daemon-outlives-its-client",
        &["CONN-30"],
        "The started daemon has a session of its own; the client's whole group and its session's get SIGHUP, SIGINT and \
         SIGKILL, and the daemon is still ready (gokcehan/lf#512).",
        detached::the_daemon_outlives_its_client,
    ),
    Case::client(
        "connect/the-daemon-holds-nothing-of-its-client",
        &["CONN-31"],
        "The client has a file as standard input, pipes as outputs and two more descriptors. The daemon that it starts \
         has none of them, and whoever reads the client's outputs sees their end (Tencent/BrowserSkill#55).",
        detached::the_daemon_holds_nothing_of_its_client,
    ),
    Case::client(
        "connect/the-daemon-works-in-the-root",
        &["CONN-32"],
        "The started daemon's working directory is `/`.",
        detached::the_daemon_works_in_the_root,
    ),
    Case::client(
        "connect/no-zombie-while-it-waits",
        &["CONN-33"],
        "The client's child ends at once, without an error and without a daemon: while the client still runs, no zombie \
         of its own stays.",
        detached::no_zombie_while_it_waits,
    ),
    Case::client(
        "connect/displaces-by-publishing-alone",
        &["CONN-34"],
        "The record's daemon speaks the client's protocol with a lower number: the client starts one that publishes over \
         it. No signal reaches the recorded process, the name is never free, and the old daemon is sent nothing but \
         handshakes.",
        replacing::displaces_by_publishing_alone,
    ),
    Case::client(
        "connect/displaces-when-told-to",
        &["CONN-34"],
        "A client that is told to replace meets a daemon of another name: one of its own is started and publishes over it.",
        replacing::displaces_when_told_to,
    ),
    Case::client(
        "connect/private-leaves-no-trace",
        &["CONN-35"],
        "A throwaway daemon is asked for beside a good one: the shared state directory stays as it is, and after the \
         client's end no process and no directory is left.",
        replacing::private_leaves_no_trace,
    ),
    Case::client(
        "connect/restart-means-another-daemon",
        &["CONN-36"],
        "A restart of a daemon that runs, and of one that is stopped (SIGSTOP), ends ready with another id \
         (opencode#37795).",
        replacing::restart_means_another_daemon,
    ),
    Case::client(
        "connect/no-restart-no-success",
        &["CONN-36"],
        "The daemon that is to be restarted proves itself, refuses to stop, and stays ready: no success is reported.",
        replacing::no_restart_no_success,
    ),
];

/// A connect-or-spawn with the spy in its daemon's place.
fn with(spy: &Spy) -> Call {
    Call::spawn().stand(spy.program())
}

/// A state directory whose record is stale, so that a call has to start a daemon; the client was seen to be ready before.
fn stale(stage: &mut Stage) -> Outcome<(World, DeadPort)> {
    let (world, _) = furnished(stage)?;
    let port = DeadPort::new()?;
    publish(stage, &Record::new(Url::of(port.address), NOBODYS_PID))?;
    Ok((world, port))
}

/// The daemon that is ready in the arena's state directory.
fn running(stage: &mut Stage, answer: &Answer) -> Outcome<Live> {
    match stage.find(stage.state_dir()) {
        Ok(live) => {
            stage.precondition(format!("the started daemon (pid {}) answers ready", live.record.pid));
            Ok(live)
        }
        Err(why) => {
            stage.precondition("a client was called");
            stage.fail(format!("no daemon is ready ({why}) after {answer}"))
        }
    }
}

/// A daemon that the client started, as it answers now.
fn spawned(stage: &mut Stage) -> Outcome<(Answer, Live)> {
    if stage.client()?.connect_or_spawn.is_none() {
        return stage.not_applicable("the manifest has no `client.connect_or_spawn`");
    }
    let answer = stage.ask(Call::spawn())?;
    let live = running(stage, &answer)?;
    ready_with(stage, &answer, &live.record.id)?;
    Ok((answer, live))
}

fn process_of(stage: &mut Stage, live: &Live) -> Outcome<Proc> {
    match u32::try_from(live.record.pid).ok().and_then(Proc::of) {
        Some(process) => Ok(process),
        None => stage.fail(format!("there is no process {}", live.record.pid)),
    }
}
