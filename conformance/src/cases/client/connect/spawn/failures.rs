//! What a client says about a failed start, and which failures hold the next start back.

use local_daemon_harness::process::{Proc, Signal};

use super::replacing::restarted;
use super::{not_executable, stale, with};
use crate::case::case;
use crate::fixtures::client::{Part, Spy};
use crate::outcome::{Outcome, Stop, ensure, not_applicable};
use crate::stage::{Answer, Call, Command, Stage};

/// Lets three children end with this status and these words.
fn fail_three_times(stage: &mut Stage, status: u8, words: &'static str) -> Outcome {
    for _ in 0..3 {
        let spy = Spy::new(stage, Part::Ends(status, words))?;
        let answer = stage.ask(with(&spy))?;
        spy.seen_started(stage)?;
        let failed = answer.outcome != "ready";
        ensure!(failed, "although its child ended with status {status}: {answer}");
        spy.forget()?;
    }
    Ok(())
}

/// The client starts a daemon and is ready with it.
fn starts_a_good_one(stage: &mut Stage, after: &str) -> Outcome {
    let spy = Spy::new(stage, Part::Runs)?;
    let answer = stage.ask(with(&spy))?;
    ensure!(!spy.starts().is_empty(), "after {after}: no daemon was started: {answer}");
    answer.must_be_after("ready", after)
}

/// The words and numbers of an answer.
fn words(answer: &Answer) -> Vec<String> {
    let text = answer.text().to_lowercase();
    text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
}

/// Three calls' children end with an error, and then the user asks for a restart of the daemon that runs meanwhile: it is
/// not held back.
#[case("CONN-21")]
fn a_restart_is_not_held_back(stage: &mut Stage) -> Outcome {
    if stage.manifest().daemon.run.is_empty() {
        return not_applicable("the subject has no daemon to restart");
    }
    if stage.client()?.restart.is_none() {
        return not_applicable("the manifest has no `client.restart`");
    }
    let (_world, _port) = stale(stage)?;
    stage.expect("a restart that ends ready with another daemon");
    fail_three_times(stage, 1, "no luck")?;
    let spy = Spy::new(stage, Part::Runs)?;
    let answer = stage.ask(with(&spy))?;
    if !spy.starts().is_empty() {
        return Err(Stop::NotReady(format!("three failures do not hold a connect back: {answer}")));
    }
    stage.control("after three failures a connect started no daemon");
    let (_daemon, live) = stage.launch_ready()?;
    let answer = stage.ask(Call::new(Command::Restart).stand(spy.program()))?;
    restarted(stage, &answer, &live.record.id, "after three failures")?;
    Ok(())
}

/// Three times the program of the daemon cannot be executed; then a good one is started.
#[case("CONN-42")]
fn a_program_that_never_ran_does_not_count(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("a daemon started, and ready");
    // Not applicable here already, if the manifest does not let a case choose the program.
    drop(Spy::named(stage, "unused", Part::Runs)?);
    for (what, program) in not_executable(stage)? {
        let answer = stage.ask(Call::spawn().stand(program))?;
        answer.must_be_after("spawn-failed", what)?;
    }
    stage.precondition("three programs could not be executed");
    starts_a_good_one(stage, "three programs that could not be executed")
}

/// Three times the child cannot ask the daemon of the record, and says so by status 17; then a good one is started.
#[case("CONN-42")]
fn a_child_that_could_not_ask_does_not_count(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("a daemon started, and ready");
    fail_three_times(stage, 17, "cannot ask: Operation not permitted")?;
    starts_a_good_one(stage, "three children that could not ask")
}

/// Three calls' children end with an error; the error of the fourth call names a number of seconds, at most a minute.
#[case("CONN-43")]
fn says_when_a_daemon_may_be_started_again(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("a number of seconds from 1 to 60");
    fail_three_times(stage, 1, "no luck")?;
    let spy = Spy::new(stage, Part::Runs)?;
    let answer = stage.ask(with(&spy))?;
    if !spy.starts().is_empty() {
        return Err(Stop::NotReady(format!("three failures do not hold a connect back: {answer}")));
    }
    let units = ["s", "sec", "second", "seconds"];
    let words = words(&answer);
    let is_time = |pair: &[String]| match pair {
        [number, unit] if units.contains(&unit.as_str()) => {
            number.parse().is_ok_and(|n: u32| (1..=60).contains(&n))
        }
        [one, _] => {
            let number = one.strip_suffix('s').and_then(|number| number.parse().ok());
            number.is_some_and(|n: u32| (1..=60).contains(&n))
        }
        _ => false,
    };
    let said = words.windows(2).any(is_time);
    ensure!(said, "no number of seconds in {answer}");
    Ok(())
}

/// A child says why it fails, and the client repeats it. The next child says nothing, and the client must not repeat what
/// the first one said.
#[case("CONN-44")]
fn repeats_no_words_of_an_earlier_daemon(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("none of the words that were in the log before the child began");
    let words = "standing down: stopped by an earlier hand";
    let spy = Spy::new(stage, Part::Ends(1, words))?;
    let answer = stage.ask(with(&spy))?;
    spy.seen_started(stage)?;
    if !answer.text().contains(words) {
        return Err(Stop::NotReady(format!("the words of a child are not repeated: {answer}")));
    }
    stage.control("what a child said was repeated");
    spy.forget()?;
    let answer = silent_end(stage, 1)?;
    let quoted = answer.text().contains(words);
    ensure!(!quoted, "the child said nothing, and the client {answer}");
    Ok(())
}

/// A child that ends with this status and without a word.
fn silent_end(stage: &mut Stage, status: u8) -> Outcome<Answer> {
    let spy = Spy::new(stage, Part::WaitsAndEnds(status))?;
    let caller = stage.call(with(&spy))?;
    spy.seen_started(stage)?;
    spy.release()?;
    let answer = stage.answer(&caller)?;
    answer.must_be("spawn-failed")?;
    spy.forget()?;
    Ok(answer)
}

/// A child ends with status 113 and without a word, and another one by SIGKILL.
#[case("CONN-45")]
fn says_how_a_silent_child_ended(stage: &mut Stage) -> Outcome {
    let (_world, _port) = stale(stage)?;
    stage.expect("the status 113, and the signal 9 or its name");
    let answer = silent_end(stage, 113)?;
    let said = words(&answer).iter().any(|word| word == "113");
    ensure!(said, "the child ended with status 113, and the client says {answer}");
    let spy = Spy::new(stage, Part::WaitsAndEnds(1))?;
    let caller = stage.call(with(&spy))?;
    let pid = spy.seen_started(stage)?;
    if !Proc::of(pid).is_some_and(|child| child.signal(Signal::KILL)) {
        return Err(Stop::Fault("the spy is not there".to_owned()));
    }
    let answer = stage.answer(&caller)?;
    let said = words(&answer)
        .iter()
        .any(|word| ["9", "kill", "sigkill", "killed"].contains(&word.as_str()));
    ensure!(said, "the child was ended by SIGKILL, and the client says {answer}");
    Ok(())
}
