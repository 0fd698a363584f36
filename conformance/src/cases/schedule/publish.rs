//! Launches, held on their way to a record in place.

use std::time::Instant;

use local_daemon_harness::files::{Facts, HostileReader, Sight};
use local_daemon_harness::http::{Connection, HttpFault};
use local_daemon_harness::proof;
use local_daemon_harness::record::Record;
use local_daemon_harness::strace::{Call, FLUSH, LINK, OPEN, Point, RENAME, Strace, WRITE};
use local_daemon_spec::Profile;

use super::{furnish, launch_held, launch_under, leaves, puts_in_place, survives, trace};
use crate::case::case;
use crate::fixtures::daemon::{NOTICED, SLACK, read, stays, yielding};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive};
use crate::stage::{Daemon, PROBE, Stage, Start};

/// Starts a daemon that is held right before its record comes into place.
fn before_publish(stage: &mut Stage, name: &str, start: Start) -> Outcome<(Daemon, Strace, Call)> {
    let held = launch_held(stage, name, start, Point::at([RENAME, LINK]).held_before())?;
    let record = stage.manifest().binding.registration.clone();
    puts_in_place(stage, &held.2, &record)?;
    Ok(held)
}

/// A daemon is held right after the call that puts its record in place, and the recorded URL is connected to.
/// Stems from opencode 1.18.
#[case("PUB-4")]
fn publish_before_listen(stage: &mut Stage) -> Outcome {
    let credential = furnish(stage)?;
    let point = Point::at([RENAME, LINK]).held_after();
    let (daemon, strace, call) = launch_held(stage, "publish", Start::new(), point)?;
    let name = stage.manifest().binding.registration.clone();
    puts_in_place(stage, &call, &name)?;
    let record = match Record::parse(&read(&stage.record_path())?) {
        Ok(record) => record,
        Err(fault) => return fail(format!("the record in place: {fault}")),
    };
    let live = stage.recorded(record, credential);
    stage.expect(
        "the recorded URL accepts a connection at once, and answers a handshake when the daemon goes on",
    );
    let mut connection = match Connection::open(live.target.address, Instant::now() + PROBE) {
        Ok(connection) => connection,
        Err(fault) => {
            return fail(format!(
                "the record can be read, and {} is not served: {fault}",
                live.target.address
            ));
        }
    };
    let request = live.handshake_request().header("Authorization", &proof::bearer(&live.credential));
    let deadline = Instant::now() + PROBE + SLACK;
    let answer = connection.send(&request.bytes(), deadline).and_then(|()| {
        strace.release(&daemon).map_err(HttpFault::from)?;
        connection.read_response(deadline)
    });
    let pointer = stage.manifest().binding.handshake.id.clone();
    match answer {
        Ok(answer) => {
            let body = answer.json().unwrap_or_default();
            let id = body.pointer(&pointer).and_then(|id| id.as_str());
            ensure!(
                matches!(answer.status, 200 | 503) && id == Some(&live.record.id),
                "the handshake was answered {} by {id}",
                answer.status,
                id = in_words(&id)
            );
        }
        Err(fault) => return fail(format!("the handshake: {fault}")),
    }
    stage.ready(&daemon)?;
    Ok(())
}

/// The system calls of a launch are followed: the temporary file is flushed after the last write to it and
/// before the call that puts it in the record's place.
#[case("PUB-6")]
fn publish_before_flush(stage: &mut Stage) -> Outcome {
    furnish(stage)?;
    let strace = trace(stage, "calls", Point::at([OPEN, WRITE, FLUSH, RENAME, LINK]))?;
    let daemon = launch_under(stage, Start::new(), &strace)?;
    stage.ready(&daemon)?;
    stage.expect("what was written to the temporary file is flushed when it comes into the record's place");
    let calls = strace.calls();
    let name = stage.manifest().binding.registration.clone();
    let moves = |call: &&Call| RENAME.contains(&call.name.as_str()) || LINK.contains(&call.name.as_str());
    let in_place = |call: &&Call| moves(call) && call.files.last().is_some_and(|file| file.ends_with(&name));
    let Some(publish) = calls.iter().find(in_place) else {
        return inconclusive("the call that puts the record in place was not seen");
    };
    let temporary = publish.files.first();
    let before: Vec<&Call> = calls
        .iter()
        .take_while(|call| *call != publish)
        .filter(|call| call.succeeded() && (call.files.first() == temporary || call.name == "syncfs"))
        .collect();
    let of = |group: &[&str]| before.iter().rposition(|call| group.contains(&call.name.as_str()));
    let Some(written) = of(WRITE) else {
        return inconclusive("no write to the temporary file was seen");
    };
    let shown: Vec<String> = before.iter().map(ToString::to_string).collect();
    stage.precondition(format!("before {publish}: {}", shown.join(", ")));
    let flushed = of(FLUSH).is_some_and(|flushed| flushed > written) || before.iter().any(|call| call.syncs);
    ensure!(flushed, "nothing flushes it before {publish}");
    Ok(())
}

/// Two first launches are both held between finding no credential and putting one in place; then they go on,
/// one after the other.
#[case("CRED-4", "CRED-5")]
fn credential_by_overwrite(stage: &mut Stage) -> Outcome {
    stage.arena().make_state_dir()?;
    let name = stage.manifest().binding.credential.clone();
    let mut launches = Vec::new();
    for launch in ["first", "second"] {
        let point = Point::at([RENAME, LINK]).held_before();
        let (daemon, strace, call) = launch_held(stage, launch, Start::new(), point)?;
        puts_in_place(stage, &call, &name)?;
        launches.push((daemon, strace));
    }
    if stage.credential_path().exists() {
        return inconclusive("there is a credential already");
    }
    stage.precondition("both have found no credential");
    stage
        .expect("the credential that the one put in place is left by the other, and the survivor accepts it");
    let (first, second) = (&launches[0], &launches[1]);
    // The other way round than they came, so that the one that held its own credential longest is the survivor.
    second.1.release(&second.0)?;
    stage.ready(&second.0)?;
    let (before, facts) = (read(&stage.credential_path())?, Facts::of(&stage.credential_path())?);
    first.1.release(&first.0)?;
    let survivor = stage.ready(&first.0)?;
    let after = Facts::of(&stage.credential_path())?;
    // The link count tells of a name that a launch has not yet taken away again.
    let same = read(&stage.credential_path())? == before && after.ino == facts.ino && !after.is_loose();
    ensure!(same, "the second to arrive replaced the credential");
    leaves(stage, &second.0, "it was displaced")?;
    survives(&first.0, &survivor, "as the last to publish")
}

/// Two launches are held with their records written and not yet in place, and go on one after the other.
#[case("PUB-5", "PUB-3", "PUB-7")]
fn shared_temporary_name(stage: &mut Stage) -> Outcome {
    furnish(stage)?;
    let (first, strace, call) = before_publish(stage, "first", Start::new())?;
    let one = written(&call)?;
    let (second, other_strace, other_call) = before_publish(stage, "second", Start::new())?;
    stage.expect("each has a temporary file of its own, and puts just that in place");
    let other = written(&other_call)?;
    ensure!(call.files.first() != other_call.files.first(), "both are about to {call}");
    let untouched = call.files.first().and_then(|file| std::fs::read(file).ok());
    ensure!(untouched.as_ref() == Some(&one), "the first one's temporary file is not what it wrote any more");
    let readers = HostileReader::start(&stage.record_path(), 1, |bytes| match Record::parse(bytes) {
        Ok(record) => Sight::Whole(record.id),
        Err(fault) => Sight::Broken(fault.to_string()),
    });
    strace.release(&first)?;
    let live = stage.ready(&first)?;
    let in_place = read(&stage.record_path())? == one;
    ensure!(in_place, "the record of {} is not the file it wrote", live.record.id);
    other_strace.release(&second)?;
    let live = stage.ready(&second)?;
    let in_place = read(&stage.record_path())? == other;
    ensure!(in_place, "the record of {} is not the file it wrote", live.record.id);
    leaves(stage, &first, "it was displaced")?;
    let report = readers.stop();
    ensure!(report.broken == 0, "broken reads: {}", in_words(&report.broken_reads));
    Ok(())
}

/// What a launch is about to put in place: a whole record.
fn written(call: &Call) -> Outcome<Vec<u8>> {
    let file = call.files.first().cloned().unwrap_or_default();
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) => return inconclusive(format!("{}: {error}", file.display())),
    };
    match Record::parse(&bytes) {
        Ok(_) => Ok(bytes),
        Err(fault) => fail(format!("{} is about to be put in place: {fault}", file.display())),
    }
}

/// A launch is held right before its record comes into place, for longer than a re-read interval, while a
/// second one publishes and is ready; then its rename lands late.
#[case("CONV-13", "PUB-7")]
fn late_publish(stage: &mut Stage) -> Outcome {
    furnish(stage)?;
    let (late, strace, _) = before_publish(stage, "late", Start::new())?;
    let (early, _) = stage.launch_ready()?;
    stays(&early, NOTICED, "beside a launch that is held")?;
    stage.expect("the late one, which published last, is the one that stays");
    strace.release(&late)?;
    let live = stage.ready(&late)?;
    leaves(stage, &early, "it was displaced")?;
    survives(&late, &live, "as the last to publish")
}

/// Two launches that yield have both found nobody and are held right before they publish. Stems from
/// sccache#340 and sccache#824.
#[case("CONV-13", "CONV-27", profile = Profile::Proof)]
fn yielding_together(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    furnish(stage)?;
    let (first, strace, _) = before_publish(stage, "first", start.clone())?;
    let (second, other_strace, _) = before_publish(stage, "second", start)?;
    if stage.record_path().exists() {
        return inconclusive("there is a record already");
    }
    stage.precondition("both have looked for somebody to yield to, and there is no record");
    stage.expect("both publish, and the one that published last is the one that stays");
    strace.release(&first)?;
    stage.ready(&first)?;
    other_strace.release(&second)?;
    let live = match stage.ready(&second) {
        Err(Stop::NotReady(why)) => return fail(why),
        live => live?,
    };
    leaves(stage, &first, "it was displaced")?;
    survives(&second, &live, "as the last to publish")
}
