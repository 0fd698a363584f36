//! Convergence: chapter 06.

mod displaced;
mod ownership;
mod removal;
mod stopping;
mod yielding;

use std::time::{Duration, Instant};

use super::scene::{DRAIN, NOTICED, Rival, SLACK, seen_draining, stays};
use crate::case::Case;
use crate::outcome::Outcome;
use crate::stage::{Daemon, Live, Stage};

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "convergence/displaced-without-a-notification",
        &["CONV-1"],
        "Another id is written into the record through a mapping, the one write that notifies nobody, and no request is \
         sent: only the daemon's own re-read can tell it. Stems from watchman#276.",
        ownership::displaced_without_a_notification,
    ),
    Case::core(
        "convergence/displaced-at-once",
        &["CONV-2"],
        "Another's record is renamed into place; the time to the idle daemon's exit is taken, at best of three.",
        ownership::displaced_at_once,
    )
    .exclusive(),
    Case::core(
        "convergence/ownership-by-id-alone",
        &["CONV-3", "PUB-12"],
        "The record is replaced by one with the same id, in which version, pid, url, unknown members and white space \
         are different.",
        ownership::ownership_by_id_alone,
    ),
    Case::core(
        "convergence/unparsable-for-a-moment",
        &["CONV-4"],
        "The record is cut in half in place and is seen so by the daemon; more than 100 ms later the whole one is back.",
        ownership::unparsable_for_a_moment,
    ),
    Case::core(
        "convergence/slow-write-in-place",
        &["CONV-4"],
        "A tool rewrites the record in place, a few bytes at a time over more than 100 ms, so that a notification comes with each.",
        ownership::slow_write_in_place,
    ),
    Case::core(
        "convergence/unparsable-for-good",
        &["CONV-5", "CONV-4"],
        "The record is cut in half for good: the daemon tries again for a quarter of a second, then leaves.",
        ownership::unparsable_for_good,
    ),
    Case::core(
        "convergence/unreadable-keeps-it-running",
        &["CONV-6"],
        "The record's mode is loosened, or a directory, a FIFO or a symbolic link takes its place, for longer than a \
         re-read interval; then it is put right.",
        ownership::unreadable_keeps_it_running,
    ),
    Case::core(
        "convergence/stopped-through-a-displacement",
        &["CONV-7", "CONV-9"],
        "A daemon is stopped (SIGSTOP), a second one takes over, and the first goes on (SIGCONT).",
        displaced::stopped_through_a_displacement,
    ),
    Case::core(
        "convergence/asked-to-stop-after-a-displacement",
        &["CONV-14", "CONV-9"],
        "While a daemon is stopped (SIGSTOP) it is asked to end (SIGTERM) and a second one takes over; then the first \
         goes on. Stems from khive#645 and stablyai/orca#12709.",
        displaced::asked_to_stop_after_a_displacement,
    ),
    Case::core(
        "convergence/displaced-exits-with-work-open",
        &["CONV-8"],
        "A daemon is displaced with a stream that nobody reads, a request that never ends, an idle connection and half \
         a request head open. Stems from OpenCoven/coven#242 and buck2@13baa8a1d1.",
        displaced::displaced_exits_with_work_open,
    )
    .deadline_s(30),
    Case::core(
        "convergence/displaced-leaves-the-record-alone",
        &["CONV-9"],
        "Another's record is renamed into place; every event about it is looked at until the displaced daemon is gone.",
        displaced::displaced_leaves_the_record_alone,
    ),
    Case::core(
        "convergence/no-new-work",
        &["CONV-10"],
        "A displaced daemon that still has work open is sent a request with an effect, on a new connection and on one \
         that it had accepted before. Stems from buck2@13baa8a1d1.",
        displaced::no_new_work,
    )
    .deadline_s(30),
    Case::core(
        "convergence/own-record-returns-in-vain",
        &["CONV-11"],
        "A daemon is displaced with work open; then its own record, and a taken file with its id, are put back.",
        displaced::own_record_returns_in_vain,
    )
    .deadline_s(30),
    Case::core(
        "convergence/exit-status-of-the-displaced",
        &["CONV-12"],
        "An idle daemon is displaced by another's record.",
        displaced::exit_status_of_the_displaced,
    ),
    Case::core(
        "convergence/exit-status-of-the-rest",
        &["CONV-33"],
        "Daemons end by a signal, by the removal of their record, and by the removal of their directory.",
        displaced::exit_status_of_the_rest,
    ),
    Case::core(
        "convergence/eight-at-once",
        &["CONV-13", "CONV-9"],
        "Eight daemons are started at the same time on one state directory. Stems from opencode#35964 and biome 2.6.",
        displaced::eight_at_once,
    )
    .no_leaks()
    .deadline_s(40),
    Case::core(
        "convergence/stop-takes-the-record-by-rename",
        &["CONV-15", "CONV-16"],
        "A daemon without a rival is asked to stop; every event about the record and the taken file is looked at.",
        stopping::stop_takes_the_record_by_rename,
    ),
    Case::core(
        "convergence/successor-published-during-a-stop",
        &["CONV-14", "CONV-15", "CONV-17"],
        "200 times (fewer where it starts slowly) a daemon is asked to stop and another's record is renamed into place at some moment around it: after \
         a varied time, or after the daemon was seen to open its record. Stems from khive#645 and stablyai/orca#12709.",
        stopping::successor_published_during_a_stop,
    )
    .deadline_s(60),
    Case::core(
        "convergence/successor-outlives-a-stop",
        &["CONV-13"],
        "A daemon is asked to stop at the very moment at which a second one, of the same subject, publishes.",
        stopping::successor_outlives_a_stop,
    )
    .deadline_s(60),
    Case::core(
        "convergence/stops-without-its-record",
        &["CONV-18"],
        "Daemons are asked to stop whose record has a loose mode, or whose record's name a directory has taken.",
        stopping::stops_without_its_record,
    ),
    Case::core(
        "convergence/record-off-before-the-drain",
        &["CONV-19"],
        "A daemon with work open is asked to stop; its record must be gone while the work still is open.",
        stopping::record_off_before_the_drain,
    )
    .deadline_s(30),
    Case::core(
        "convergence/second-signal-ends-the-drain",
        &["CONV-20"],
        "A daemon with work open is asked to stop, is seen draining, and is asked again.",
        stopping::second_signal_ends_the_drain,
    )
    .deadline_s(30),
    Case::core(
        "convergence/taken-record-is-published-again",
        &["CONV-21", "CONV-22"],
        "The record of a healthy daemon is moved to taken names of other ids, as a predecessor does that moved the \
         wrong one, beside a taken file of somebody else. It happens twice; then the record is removed for good.",
        removal::taken_record_is_published_again,
    ),
    Case::core(
        "convergence/removed-record-stands-it-down",
        &["CONV-23", "CONV-25"],
        "The record is removed, with nothing else there and beside a taken file of another id.",
        removal::removed_record_stands_it_down,
    ),
    Case::core(
        "convergence/removed-directory-stands-it-down",
        &["CONV-24", "CONV-25"],
        "The whole state directory is removed, or moved away. Stems from clawpatrol#670 and gmux#359.",
        removal::removed_directory_stands_it_down,
    ),
    Case::proof(
        "convergence/yields-to-a-ready-daemon",
        &["CONV-26"],
        "A daemon that is told to yield is started where a proven, ready daemon of the same protocol is published: one \
         played by the suite, and one of the same subject. Stems from sccache#340 and sccache#824.",
        yielding::yields_to_a_ready_daemon,
    ),
    Case::proof(
        "convergence/yields-to-who-came-meanwhile",
        &["CONV-34"],
        "A daemon that is told to yield asks a mute squatter, and a proven, ready daemon of the same protocol, which the \
         suite plays, publishes meanwhile.",
        yielding::yields_to_who_came_meanwhile,
    ),
    Case::proof(
        "convergence/yields-to-nothing-else",
        &["CONV-27"],
        "Daemons that are told to yield are started where there is no record, a malformed one, or one that leads to a \
         dead port, to silence, to a squatter that answers 200, to a wrong proof, to another id, to a draining daemon, \
         or to one of another protocol.",
        yielding::yields_to_nothing_else,
    ),
    Case::core(
        "convergence/recorded-process-is-not-signalled",
        &["CONV-28"],
        "Records that name a bystander are published over, displace a daemon, and are found by a stopping one. Stems \
         from pants#2659 and buck2#1426.",
        yielding::recorded_process_is_not_signalled,
    ),
];

/// How long a displaced daemon with work open may take: it notices, and it drains.
fn drained(stage: &Stage) -> Instant {
    Instant::now() + NOTICED + DRAIN.max(stage.manifest().daemon.stand_down_timeout()) + SLACK
}

/// Renames `rival`'s record over that of a ready daemon; when.
fn displace(stage: &mut Stage, rival: &Rival) -> Outcome<Instant> {
    let at = rival.publish(&stage.record_path())?;
    stage.precondition(format!("the record of {} was renamed into place", rival.record.id));
    Ok(at)
}

/// Displaces a daemon with work open and waits until it must have begun to stand down. (That a handshake is answered
/// `draining` says less: it is answered by what the record holds at that moment.) Whether it is still there.
fn displaced_for_good(stage: &mut Stage, daemon: &Daemon, live: &Live) -> Outcome<bool> {
    let at = displace(stage, &Rival::new()?)?;
    let draining = seen_draining(stage, daemon, live)?;
    let alive = draining && daemon.wait_exit(at + NOTICED).is_none();
    stage.observed(if alive {
        "it was draining 2.5 s after its displacement"
    } else {
        "it had ended 2.5 s after its displacement"
    });
    Ok(alive)
}

/// It stays for a moment, and its handshake is good.
fn ready_again(stage: &mut Stage, daemon: &Daemon, live: &Live, after: &str) -> Outcome {
    stays(stage, daemon, Duration::from_millis(500), &format!("after {after}"))?;
    let ready = stage.is_ready(live);
    stage.ensure(ready, format!("it is not ready after {after}"))
}
