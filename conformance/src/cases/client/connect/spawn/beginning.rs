//! The signals, the umask and the limits with which a daemon begins, whatever its client has.

use std::time::Instant;

use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::{Proc, Signal};
use local_daemon_harness::wait::until;

use super::replacing::restarted;
use super::{not_executable, running, stale, with};
use crate::case::case;
use crate::fixtures::client::{Part, SOON, Spy, settled};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, inconclusive, not_applicable};
use crate::stage::{Call, Command, Stage};

/// A setup with the signals that launchers are known to block or to ignore.
fn mistreated() -> Setup {
    Setup {
        blocked: &[Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1],
        ignored: &[
            Signal::TERM,
            Signal::HUP,
            Signal::PIPE,
            Signal::XFSZ,
            Signal::QUIT,
        ],
        ..Setup::default()
    }
}

/// A setup with SIGCHLD ignored.
fn childless() -> Setup {
    Setup { ignored: &[Signal::CHILD], ..Setup::default() }
}

/// The signals of a mask in `/proc/PID/status`, without 32 to 34, which the C library reserves and lets no program change.
fn mask(process: &Proc, field: &str) -> Option<u64> {
    let all = u64::from_str_radix(&process.status(field)?, 16).ok()?;
    Some(all & !(0b111 << 31))
}

/// The precondition that a process with this setup has its signals blocked and ignored, so that the client has them too.
fn seen_to_hold(stage: &Stage, setup: Setup) -> Outcome {
    let process = stage.arena().launch("control", ["sleep", "600"]).setup(setup).start()?;
    let bits = |signals: &[Signal]| signals.iter().map(|signal| 1 << (signal.as_raw() - 1)).sum::<u64>();
    let (blocked, ignored) = (bits(setup.blocked), bits(setup.ignored));
    let proc = Proc::of(process.pid());
    let has = |field: &str| proc.as_ref().and_then(|process| mask(process, field)).unwrap_or_default();
    if has("SigBlk") & blocked != blocked || has("SigIgn") & ignored != ignored {
        return Err(Stop::Fault("a process does not begin with the signals that it is given".to_owned()));
    }
    stage.precondition(format!(
        "another process with the setup of the client had the signals {blocked:x} blocked and {ignored:x} ignored"
    ));
    Ok(())
}

/// The client is called with SIGCHLD ignored: three starts and a restart end ready, the words of a child that fails are
/// repeated, and a program that is not there is a failed start.
#[case("CONN-46")]
fn judges_a_start_without_sigchld(stage: &mut Stage) -> Outcome {
    if stage.client()?.connect_or_spawn.is_none() {
        return not_applicable("the manifest has no `client.connect_or_spawn`");
    }
    stage.expect("ready each time, and spawn-failed with the words of a child that fails");
    seen_to_hold(stage, childless())?;
    for start in 1..=3 {
        let answer = stage.ask(Call::spawn().setup(childless()))?;
        answer.must_be_after("ready", &format!("start {start} with SIGCHLD ignored"))?;
        running(stage, &answer)?;
        if start < 3 {
            stage.arena().end_leaks();
        }
    }
    if stage.client()?.restart.is_some() {
        let before = stage.find(stage.state_dir()).map_err(Stop::NotReady)?;
        let answer = stage.ask(Call::new(Command::Restart).setup(childless()))?;
        restarted(stage, &answer, &before.record.id, "with SIGCHLD ignored")?;
    }
    stage.arena().end_leaks();
    if stage.client()?.daemon.is_none() {
        return Ok(());
    }
    let words = "cannot listen: no luck at all";
    let spy = Spy::new(stage, Part::Ends(1, words))?;
    let answer = stage.ask(with(&spy).setup(childless()))?;
    answer.must_be_after("spawn-failed", "a child that fails, with SIGCHLD ignored")?;
    ensure!(
        answer.text().contains(words),
        "the child said {words}, the client {answer}",
        words = in_words(&words)
    );
    for (what, program) in not_executable(stage)? {
        let answer = stage.ask(Call::spawn().stand(program).setup(childless()))?;
        answer.must_be_after("spawn-failed", what)?;
    }
    Ok(())
}

/// The client is called with signals blocked and others ignored: the program that it starts as its daemon has none of them.
#[case("CONN-47")]
fn the_daemon_begins_with_default_signals(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("no signal blocked and none ignored");
    seen_to_hold(stage, mistreated())?;
    let spy = Spy::new(stage, Part::Hangs)?;
    let _caller = stage.call(with(&spy).within(2).setup(mistreated()))?;
    let pid = spy.seen_started(stage)?;
    let Some(child) = settled(pid) else {
        return Err(Stop::Fault("the spy is not there".to_owned()));
    };
    for (field, what) in [("SigBlk", "blocked"), ("SigIgn", "ignored")] {
        let has = mask(&child, field);
        ensure!(has == Some(0), "the daemon begins with these signals {what}: {has:x?}");
    }
    Ok(())
}

/// The client is called with the umask 022: the program that it starts as its daemon has 077.
#[case("CONN-48")]
fn the_daemon_begins_with_a_strict_umask(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("the umask 077");
    let setup = Setup { umask: Some(0o022), ..Setup::default() };
    let spy = Spy::new(stage, Part::Hangs)?;
    let _caller = stage.call(with(&spy).within(2).setup(setup))?;
    let pid = spy.seen_started(stage)?;
    let umask = settled(pid).and_then(|child| child.status("Umask"));
    ensure!(
        umask.as_deref() == Some("0077"),
        "the daemon begins with the umask {umask}",
        umask = in_words(&umask)
    );
    Ok(())
}

/// The client is called with lowered soft limits: those of the program that it starts as its daemon are the hard ones.
#[case("CONN-48")]
fn the_daemon_begins_with_raised_limits(stage: &mut Stage) -> Outcome {
    const LIMITS: [&str; 3] = ["Max cpu time", "Max file size", "Max address space"];
    let (_world, _port) = stale(stage)?;
    stage.expect("soft limits that are as high as the hard ones");
    // High enough for any interpreter. A limit that is lower already stays as it is.
    let lower = "ulimit -S -t 3600; ulimit -S -f 67108864; ulimit -S -v 1073741824; exec \"$@\"";
    let under = ["sh", "-c", lower, "sh"];
    let lowered = |process: &Proc| {
        let differ = |limit: &&str| process.limit(limit).is_some_and(|(soft, hard)| soft != hard);
        LIMITS.into_iter().filter(differ).collect::<Vec<_>>()
    };
    let control = stage.arena().launch("control", under.into_iter().chain(["sleep", "600"])).start()?;
    let asleep = || Proc::of(control.pid()).filter(|process| process.comm == "sleep");
    let before = until(Instant::now() + SOON, asleep);
    let before = before.map(|process| lowered(&process)).unwrap_or_default();
    if before.is_empty() {
        return inconclusive("no limit can be lowered");
    }
    stage.precondition(format!(
        "another process with the setup of the client had lowered limits: {before}",
        before = in_words(&before)
    ));
    let spy = Spy::new(stage, Part::Hangs)?;
    let _caller = stage.call(with(&spy).within(2).under(&under))?;
    let pid = spy.seen_started(stage)?;
    let Some(child) = settled(pid) else {
        return Err(Stop::Fault("the spy is not there".to_owned()));
    };
    let low = lowered(&child);
    ensure!(low.is_empty(), "the daemon begins with lowered limits: {low}", low = in_words(&low));
    Ok(())
}
