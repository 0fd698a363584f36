//! Connect: the outcomes, and the connect that starts nothing. Chapter 09, its first half.

mod asking;
mod spawn;
mod worlds;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use local_daemon_harness::actors::{FakeDaemon, FakeProof, Seen, Squatter, response};
use local_daemon_harness::files::{Snapshot, set_mode};
use local_daemon_harness::platform::{is_root, make_fifo};
use local_daemon_harness::proof::Credential;
use local_daemon_harness::record::{MOST_BYTES, Record, Url, replace};
use serde_json::{Value, json};

use super::outcomes::{WITHOUT_SPAWN, arrange, look};
use crate::case::case;
use crate::fixtures::client::{
    Part, Spy, World, at_first, connects, furnished, not_started, play, play_published, publish, publisher,
    squat, write_record,
};
use crate::fixtures::daemon::{DeadPort, NOBODYS_PID};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, not_applicable};
use crate::stage::{Answer, CONNECT, Call, LATE, OUTCOMES, Stage};

/// The answer to a connect in the scene of each outcome that needs no spawn.
fn every_outcome(stage: &mut Stage) -> Outcome<BTreeMap<&'static str, Answer>> {
    let (world, _good) = furnished(stage)?;
    let mut answers = BTreeMap::new();
    for outcome in WITHOUT_SPAWN {
        let _standing = arrange(stage, &world, outcome, NOBODYS_PID)?;
        answers.insert(outcome, stage.ask(look())?);
    }
    Ok(answers)
}

/// A connect is made to end in each of the eight outcomes that need no spawn: no two of them have the same
/// exit status or the same word.
#[case("CONN-1")]
fn outcomes_are_distinct(stage: &mut Stage) -> Outcome {
    stage.expect("eight exit statuses and eight words");
    let answers = every_outcome(stage)?;
    for (one, first) in &answers {
        for (other, second) in answers.range(*one..).skip(1) {
            let same = first.exit.code == second.exit.code || first.outcome == second.outcome;
            ensure!(!same, "{one} and {other} cannot be told apart: {first}; {second}");
        }
    }
    Ok(())
}

/// A connect is made to end in each outcome: the exit status is the table's.
#[case("CONN-2")]
fn exit_status_of_each_outcome(stage: &mut Stage) -> Outcome {
    stage.expect("the exit status of the table");
    let mut answers = every_outcome(stage)?;
    if let Some(answer) = failed_spawn(stage)? {
        answers.insert("spawn-failed", answer);
    }
    for (outcome, status) in OUTCOMES {
        if let Some(answer) = answers.get(outcome) {
            ensure!(answer.exit.code == Some(status), "{outcome}: not exit status {status} but {answer}");
        }
    }
    Ok(())
}

/// A connect is made to end in each outcome: standard output is one JSON object with the outcome's word.
#[case("CONN-3")]
fn json_whatever_the_outcome(stage: &mut Stage) -> Outcome {
    stage.expect("one JSON object with the outcome's word");
    let mut answers = every_outcome(stage)?;
    if let Some(answer) = failed_spawn(stage)? {
        answers.insert("spawn-failed", answer);
    }
    let pointer = stage.client()?.outcome;
    for (outcome, answer) in &answers {
        let word = answer.json.as_ref().filter(|json| json.is_object());
        let word = word.and_then(|json| json.pointer(&pointer)).and_then(Value::as_str);
        ensure!(
            word == Some(outcome),
            "{outcome}: standard output says {word}: {answer}",
            word = in_words(&word)
        );
    }
    Ok(())
}

/// The answer to a connect whose daemon ends with an error, of a client that can be given one.
fn failed_spawn(stage: &mut Stage) -> Outcome<Option<Answer>> {
    let client = stage.client()?;
    if client.connect_or_spawn.is_none() || client.daemon.is_none() {
        return Ok(None);
    }
    // The last scene was one that no spawn goes on from.
    let world = World { credential: Credential::random(), protocol: client.protocol };
    stage.transcript().hide(world.credential.bytes());
    let _standing = arrange(stage, &world, "absent", NOBODYS_PID)?;
    let spy = Spy::new(stage, Part::Ends(1, "no luck"))?;
    stage.ask(Call::spawn().stand(spy.program())).map(Some)
}

/// Daemons that prove themselves give another id, no id, another protocol, none, another state, none: none of
/// them is ready (by reading, most clients accept whatever answers 200).
#[case("CONN-4")]
fn ready_only_when_all_is_right(stage: &mut Stage) -> Outcome {
    let (world, good) = furnished(stage)?;
    stage.expect("another outcome than ready");
    // With a letter, so that its capitals are another text.
    let id = format!("a{}", &good.daemon.id[1..]);
    let without = |name: &str| serde_json::Map::from_iter([(name.to_owned(), Value::Null)]);
    let with = |name: &str, value: Value| serde_json::Map::from_iter([(name.to_owned(), value)]);
    let wrong = [
        ("no id", without("id")),
        ("another id", with("id", json!(Credential::random().text()[..32].to_lowercase()))),
        ("the id in capitals", with("id", json!(id.to_uppercase()))),
        ("an id that is a number", with("id", json!(7))),
        ("no protocol", without("protocol")),
        ("another protocol", with("protocol", json!("another/1"))),
        ("a protocol in a list", with("protocol", json!([world.protocol]))),
        ("no state", without("state")),
        ("state draining with status 200", with("state", json!("draining"))),
        ("state starting", with("state", json!("starting"))),
        ("state Ready", with("state", json!("Ready"))),
    ];
    for (what, members) in wrong {
        let daemon = FakeDaemon { members, status: Some(200), id: id.clone(), ..world.daemon() };
        let _played = play_published(stage, daemon)?;
        let answer = stage.ask(look())?;
        ensure!(
            answer.outcome != "ready" && answer.exit.code != Some(0),
            "a proven answer with {what}: {answer}"
        );
    }
    let proof = FakeProof::None;
    let unproven = world.daemon().proof(proof);
    let _played = play_published(stage, unproven)?;
    let answer = stage.ask(look())?;
    ensure!(answer.outcome != "ready", "a right answer without a proof: {answer}");
    Ok(())
}

/// There is no state directory, no record in it, and one that is malformed, with a credential and without.
#[case("CONN-5")]
fn absent_without_a_record(stage: &mut Stage) -> Outcome {
    stage.expect("absent");
    let missing = stage.ask(Call::connect())?;
    let (_, _good) = furnished(stage)?;
    missing.must_be_after("absent", "without a state directory")?;
    write_record(stage, b"{\"id\":")?;
    let malformed = stage.ask(Call::connect())?;
    malformed.must_be_after("absent", "with half a record")?;
    std::fs::remove_file(stage.record_path())?;
    let none = stage.ask(Call::connect())?;
    none.must_be_after("absent", "with a credential alone")?;
    std::fs::remove_file(stage.credential_path())?;
    let empty = stage.ask(Call::connect())?;
    empty.must_be_after("absent", "with an empty state directory")
}

/// The record leads to a port that refuses.
#[case("CONN-6")]
fn stale_when_refused(stage: &mut Stage) -> Outcome {
    let _ = furnished(stage)?;
    stage.expect("stale");
    let port = DeadPort::new()?;
    publish(stage, &Record::new(Url::of(port.address), NOBODYS_PID))?;
    let answer = stage.ask(Call::connect())?;
    answer.must_be("stale")
}

/// A daemon of another id proves itself at the recorded address, and the record does not change.
#[case("CONN-6")]
fn stale_when_another_proves_itself(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("stale");
    let another = Record::new(good.actor.url(), NOBODYS_PID);
    publish(stage, &another)?;
    let answer = stage.ask(Call::connect())?;
    answer.must_be("stale")
}

/// The record's daemon is stopped (SIGSTOP), or, of a client without a daemon of its own, takes no
/// connection: the system accepts it and nobody answers.
#[case("CONN-7")]
fn busy_when_it_does_not_answer(stage: &mut Stage) -> Outcome {
    stage.expect("busy");
    if stage.manifest().daemon.run.is_empty() {
        let _ = furnished(stage)?;
        let (_actor, _) = squat(stage, Squatter::backlog_only())?;
        let answer = stage.ask(Call::connect())?;
        return answer.must_be("busy");
    }
    let (daemon, live) = stage.launch_ready()?;
    let before = stage.ask(Call::connect())?;
    before.must_be_ready_with(&live.record.id)?;
    stage.control("the client was ready with the daemon before");
    daemon.stop()?;
    stage.precondition("every process of the daemon is stopped");
    let answer = stage.ask(Call::connect())?;
    answer.must_be("busy")?;
    daemon.cont()?;
    let after = stage.ask(Call::connect())?;
    after.must_be_ready_with(&live.record.id)
}

/// The record's daemon proves itself and is draining until the deadline.
#[case("CONN-7")]
fn busy_when_draining(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("busy");
    let _standing = arrange(stage, &world, "busy", NOBODYS_PID)?;
    let answer = stage.ask(look())?;
    answer.must_be("busy")
}

/// What answers at the recorded address says 200, 401, 403, 404, 500, 503, redirects, an empty body, a page,
/// what is not HTTP, and proofs of another credential and for another port.
#[case("CONN-8")]
fn foreign_whatever_it_answers(stage: &mut Stage) -> Outcome {
    let (world, good) = furnished(stage)?;
    stage.expect("foreign");
    let body = good.daemon.body();
    let challenge = |scheme: &'static str| {
        Squatter::responding(move |_, _| response(401, &[("WWW-Authenticate", scheme)], b""))
    };
    let wrong = |proof: FakeProof| world.daemon().proof(proof).part();
    let squatters = [
        ("200 and an empty object", Squatter::answering(200, "{}")),
        ("200 and what a daemon would say", Squatter::answering(200, &body)),
        ("200 and a page", Squatter::answering(200, "<!doctype html><title>hello</title>")),
        ("204", Squatter::saying("HTTP/1.1 204 No Content\r\n\r\n")),
        ("401 for a bearer", challenge("Bearer")),
        ("401 for a proof", challenge("Local-Daemon-Proof")),
        ("403", Squatter::answering(403, "{}")),
        ("404", Squatter::answering(404, "{}")),
        ("500", Squatter::answering(500, "{}")),
        ("503 and what a draining daemon would say", {
            Squatter::answering(503, &body.replace("\"ready\"", "\"draining\""))
        }),
        ("a redirect", Squatter::redirecting("http://127.0.0.1:1/")),
        ("what is not HTTP", Squatter::saying("SSH-2.0-OpenSSH_9.6\r\n")),
        ("half an answer", Squatter::saying("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{")),
        ("a proof of another credential", wrong(FakeProof::Wrong)),
        ("a proof for another body", wrong(FakeProof::OtherBody)),
        ("a proof for another port", wrong(FakeProof::OtherAuthority)),
        ("a proof for another nonce", wrong(FakeProof::OtherNonce)),
        ("the client's own proof", wrong(FakeProof::Reflected)),
        ("no proof", wrong(FakeProof::None)),
        ("a relay to the good daemon", Squatter::relaying(good.actor.address())),
    ];
    for (what, squatter) in squatters {
        let (_actor, record) = squat(stage, squatter)?;
        // Even one that names the very daemon of the record.
        let record = record.with_id(good.daemon.id.clone());
        publish(stage, &record)?;
        let answer = stage.ask(Call::connect())?;
        answer.must_be_after("foreign", what)?;
    }
    Ok(())
}

/// What a client has to refuse, with the path that is at fault.
fn faults(stage: &Stage) -> Vec<(&'static str, PathBuf, Fault)> {
    let (record, credential) = (stage.record_path(), stage.credential_path());
    let mut faults: Vec<(&'static str, PathBuf, Fault)> = vec![
        ("a record that is a FIFO", record.clone(), Fault::Fifo),
        ("a record that is a directory", record.clone(), Fault::Directory),
        ("a record that others may read", record.clone(), Fault::Mode(0o644)),
        ("a credential that is a FIFO", credential.clone(), Fault::Fifo),
        ("a credential that others may read", credential.clone(), Fault::Mode(0o640)),
        ("a credential that is none", credential.clone(), Fault::Bytes(b"not a credential")),
        ("an empty credential", credential.clone(), Fault::Bytes(b"")),
        ("a state directory that others may enter", stage.state_dir().to_owned(), Fault::Mode(0o755)),
    ];
    if !is_root() {
        faults.push(("a record that nobody may read", record, Fault::Mode(0)));
        faults.push(("a credential that nobody may read", credential, Fault::Mode(0)));
        faults.push((
            "a state directory that nobody may enter",
            stage.state_dir().to_owned(),
            Fault::Mode(0),
        ));
    }
    faults
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Fifo,
    Directory,
    Mode(u32),
    Bytes(&'static [u8]),
    Link,
    /// White space beyond the length that is read.
    Padding,
}

impl Fault {
    fn make(self, path: &Path) -> Outcome {
        match self {
            Self::Mode(mode) => Ok(set_mode(path, mode)?),
            Self::Bytes(bytes) => Ok(replace(path, bytes, 0o600)?),
            Self::Fifo => {
                std::fs::remove_file(path)?;
                Ok(make_fifo(path)?)
            }
            Self::Directory => {
                std::fs::remove_file(path)?;
                Ok(std::fs::create_dir(path)?)
            }
            Self::Link => {
                let target = path.with_extension("target");
                std::fs::rename(path, &target)?;
                Ok(symlink(&target, path)?)
            }
            Self::Padding => {
                let mut bytes = std::fs::read(path)?;
                bytes.resize(MOST_BYTES + 1, b' ');
                Ok(replace(path, &bytes, 0o600)?)
            }
        }
    }
}

/// Record, credential and state directory in turn cannot be read or fail a check, and a record is there
/// without a credential: the outcome is invalid, names the path, comes at once, and nothing is started.
#[case("CONN-9")]
fn invalid_names_the_path_and_starts_nothing(stage: &mut Stage) -> Outcome {
    let (world, good) = furnished(stage)?;
    stage.expect("invalid and the path, within 1 s, and no daemon started");
    let spy = Spy::if_it_spawns(stage, Part::Ends(1, "started"))?;
    for (what, path, fault) in faults(stage) {
        fault.make(&path)?;
        let mut calls = vec![Call::connect()];
        calls.extend(spy.as_ref().map(|spy| Call::spawn().stand(spy.program())));
        for call in calls {
            let answer = stage.ask(call)?;
            answer.must_be_after("invalid", what)?;
            let named = answer.text().contains(&*path.to_string_lossy());
            ensure!(named, "{what}: {} is not named: {answer}", path.display());
            let quick = answer.after < Duration::from_secs(1) + LATE;
            ensure!(quick, "{what}: too late: {answer}");
        }
        if let Some(spy) = &spy {
            not_started(stage, spy, what)?;
        }
        if path == stage.state_dir() {
            set_mode(&path, 0o700)?;
        } else if path.is_dir() {
            std::fs::remove_dir(&path)?;
        }
        world.write_credential(stage)?;
        publish(stage, &good.record)?;
        connects(stage, &good)?;
    }
    std::fs::remove_file(stage.credential_path())?;
    let answer = stage.ask(Call::connect())?;
    answer.must_be_after("invalid", "a record without a credential")
}

/// There is no record, and the credential in turn is open to others, a FIFO, a symbolic link, and too long: the outcome is
/// invalid, names the path, comes at once, and nothing is started.
#[case("CONN-9")]
fn invalid_credential_without_a_record(stage: &mut Stage) -> Outcome {
    let world = World::new(stage)?;
    stage.expect("invalid and the path, within 1 s, and no daemon started");
    let spy = Spy::if_it_spawns(stage, Part::Ends(1, "started"))?;
    let path = stage.credential_path();
    for (what, fault) in [
        ("a credential that others may read", Fault::Mode(0o644)),
        ("a credential that is a FIFO", Fault::Fifo),
        ("a credential that is a link", Fault::Link),
        ("a credential that is too long", Fault::Padding),
    ] {
        let answer = stage.ask(Call::connect())?;
        answer.must_be_after("absent", "with a good credential and no record")?;
        stage.control("with a good credential and no record the client said absent");
        fault.make(&path)?;
        let mut calls = vec![Call::connect()];
        calls.extend(spy.as_ref().map(|spy| Call::spawn().stand(spy.program())));
        for call in calls {
            let answer = stage.ask(call)?;
            answer.must_be_after("invalid", what)?;
            let named = answer.text().contains(&*path.to_string_lossy());
            ensure!(named, "{what}: {} is not named: {answer}", path.display());
            ensure!(answer.exit.code == Some(15), "{what}: not exit status 15 but {answer}");
            let quick = answer.after < Duration::from_secs(1) + LATE;
            ensure!(quick, "{what}: too late: {answer}");
        }
        if let Some(spy) = &spy {
            not_started(stage, spy, what)?;
        }
        world.write_credential(stage)?;
    }
    Ok(())
}

/// The record's daemon drains for ever; the caller set no deadline.
#[case("CONN-10", idle)]
fn ends_by_its_own_deadline(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("an answer within 10 s");
    let _standing = arrange(stage, &world, "busy", NOBODYS_PID)?;
    let caller = stage.call(Call::connect())?;
    let answer = stage.answer_by(&caller, caller.began + CONNECT + LATE)?;
    let seen = "the client still waits for a draining daemon after 11.5 s";
    ensure!(answer.is_some(), "{seen}");
    Ok(())
}

/// The record's daemon is mute, drips, and drains for ever; the caller set 1 s.
#[case("CONN-10")]
fn ends_by_the_callers_deadline(stage: &mut Stage) -> Outcome {
    if stage.client()?.deadline.is_none() {
        return not_applicable("the manifest has no `client.deadline`");
    }
    let (world, good) = furnished(stage)?;
    stage.expect("an answer within 1 s");
    let body = good.daemon.body();
    let drip = || Squatter::dripping(&body, Duration::from_millis(50));
    for (what, squatter) in [("a mute listener", Squatter::mute()), ("one that drips", drip())] {
        let (_actor, _) = squat(stage, squatter)?;
        ends_within_a_second(stage, what)?;
    }
    let _standing = arrange(stage, &world, "busy", NOBODYS_PID)?;
    ends_within_a_second(stage, "a draining daemon")
}

fn ends_within_a_second(stage: &mut Stage, before: &str) -> Outcome {
    let caller = stage.call(Call::connect().within(1))?;
    // As much later as a busy host needs, and not as late as the bound of a handshake.
    let answer = stage.answer_by(&caller, caller.began + Duration::from_millis(1_900))?;
    ensure!(answer.is_some(), "{before}: no answer after 1.9 s");
    Ok(())
}

/// Between two calls the record changes to another daemon's, while the first still answers ready: the second
/// call goes to the other one, and the first hears nothing more.
#[case("CONN-11")]
fn reads_the_record_each_time(stage: &mut Stage) -> Outcome {
    let (world, first) = furnished(stage)?;
    stage.expect("ready with the second daemon, and nothing sent to the first");
    let heard = first.actor.ledger().connections().len();
    let second = play_published(stage, world.daemon())?;
    let answer = stage.ask(Call::connect())?;
    let more = first.actor.ledger().connections().len() - heard;
    ensure!(more == 0, "{more} more connections to the address of the earlier record");
    answer.must_be_ready_with(&second.daemon.id)
}

/// A connect that must not spawn meets a missing, an empty and a furnished state directory in every state of
/// the record: no process is started, and nothing is created or changed.
#[case("CONN-12")]
fn no_spawn_changes_nothing(stage: &mut Stage) -> Outcome {
    stage.expect("nothing in the state directory is created or changed, and no process is started");
    let spy = Spy::if_it_spawns(stage, Part::Hangs)?;
    let call = || match &spy {
        Some(spy) => look().stand(spy.program()),
        None => look(),
    };
    let (world, good) = furnished(stage)?;
    drop(good);
    let state_dir = stage.state_dir().to_owned();
    std::fs::remove_dir_all(&state_dir)?;
    let missing = stage.ask(call())?;
    ensure!(!state_dir.exists(), "the state directory was made: {missing}");
    if let Some(spy) = &spy {
        not_started(stage, spy, "without a state directory")?;
    }
    for outcome in WITHOUT_SPAWN {
        // A new one each time, so that what an earlier call has left does not hide what this one makes.
        stage.arena().make_state_dir()?;
        let _standing = arrange(stage, &world, outcome, NOBODYS_PID)?;
        let before = Snapshot::of(stage.state_dir())?;
        let answer = stage.ask(call())?;
        let changes = before.diff(&Snapshot::of(stage.state_dir())?);
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        ensure!(changes.is_empty(), "{outcome}: {}: {answer}", changes.join(", "));
        if let Some(spy) = &spy {
            not_started(stage, spy, outcome)?;
        }
        let left: Vec<String> = stage.arena().leaks().iter().map(ToString::to_string).collect();
        ensure!(left.is_empty(), "{outcome}: started {}", left.join(", "));
        std::fs::remove_dir_all(&state_dir)?;
    }
    Ok(())
}

/// The record's daemon is draining; another one's record appears after the probe.
#[case("CONN-13")]
fn waits_for_the_successor(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("ready with the successor");
    let leaving = world.daemon().draining();
    let leaving = play(stage, leaving)?;
    let successor = play(stage, world.daemon())?;
    publish(stage, &leaving.record)?;
    let caller = stage.call(Call::connect())?;
    if leaving.actor.ledger().wait_request(caller.deadline).is_none() {
        return fail("the record's daemon was not asked");
    }
    stage.precondition("the client asked a daemon that is draining");
    publish(stage, &successor.record)?;
    let answer = stage.answer(&caller)?;
    answer.must_be_ready_with(&successor.daemon.id)
}

type Answers = Box<dyn Fn(&Seen, SocketAddr) -> Vec<u8> + Send + Sync>;

/// While the probe is under way, the record changes to a good daemon's; the answer is then foreign, reset,
/// another id's, and of another protocol.
#[case("CONN-14")]
fn reads_again_before_it_reports(stage: &mut Stage) -> Outcome {
    let (world, good) = furnished(stage)?;
    stage.expect("ready with the daemon whose record is there in the end");
    let another = world.daemon().protocol("another/1");
    let id = another.id.clone();
    let impostor = world.daemon();
    let scenes: [(&str, Answers); 3] = [
        ("foreign", Box::new(|_, _| response(404, &[], b"{}"))),
        ("another id's", Box::new(move |seen, address| impostor.answer(seen, address))),
        ("of another protocol", Box::new(move |seen, address| another.answer(seen, address))),
    ];
    for (what, answers) in scenes {
        let squatter = at_first(publisher(stage, &good.record), answers);
        let (_actor, record) = squat(stage, squatter)?;
        if what == "of another protocol" {
            publish(stage, &record.with_id(id.clone()))?;
        }
        let answer = stage.ask(Call::connect())?;
        let seen = format!("after an answer that is {what}: not ready with {} but {answer}", good.daemon.id);
        let ready = answer.outcome == "ready" && answer.id.as_ref() == Some(&good.daemon.id);
        ensure!(ready, "{seen}");
    }
    Ok(())
}
