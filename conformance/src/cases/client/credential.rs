//! What a client does with the credential: chapter 04.

use std::sync::Arc;
use std::time::Instant;

use local_daemon_harness::actors::Squatter;
use local_daemon_harness::files::{EntryKind, FileEventKind, HostileReader, Sight, Snapshot, Watch};
use local_daemon_harness::platform::Setup;
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{self, replace};
use local_daemon_harness::wait::until;

use super::outcomes::{WITHOUT_SPAWN, arrange, look};
use crate::case::case;
use crate::fixtures::client::{Part, SOON, Spy, World, furnished, settled, squat};
use crate::fixtures::daemon::NOBODYS_PID;
use crate::fixtures::dumps::Dumps;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, fail};
use crate::stage::{Answer, Call, Command, Stage};

/// What the client wrote holds nothing of a secret.
fn quiet(answer: &Answer, secret: &[u8], when: &str) -> Outcome {
    let told = proof::holds(&answer.stdout, secret) || proof::holds(&answer.stderr, secret);
    ensure!(!told, "the client wrote the credential ({when})");
    Ok(())
}

/// No file of the arena but the credential holds a secret.
fn unwritten(stage: &mut Stage, secret: &[u8]) -> Outcome {
    let root = stage.arena().path().to_owned();
    let credential = stage.credential_path();
    for (name, entry) in Snapshot::of(&root)?.0 {
        let path = root.join(&name);
        if entry.facts.kind == EntryKind::File && path != credential {
            let told = std::fs::read(&path).is_ok_and(|bytes| proof::holds(&bytes, secret));
            ensure!(!told, "{} holds the credential", name.display());
        }
    }
    Ok(())
}

/// A connect ends in each outcome, and with a credential file that is damaged: what the client writes, the
/// addresses that it asks for and the files that it leaves hold nothing of the credential.
#[case("CRED-10")]
fn client_tells_nobody(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("the credential nowhere");
    let secret = world.credential.bytes();
    for outcome in WITHOUT_SPAWN {
        let _standing = arrange(stage, &world, outcome, NOBODYS_PID)?;
        let answer = stage.ask(look())?;
        quiet(&answer, secret, outcome)?;
    }
    let (squatter, _) = squat(stage, Squatter::answering(401, "{}"))?;
    let answer = stage.ask(Call::connect())?;
    quiet(&answer, secret, "foreign")?;
    let in_target = |target: &str| proof::holds(target.as_bytes(), secret);
    let told = squatter.ledger().requests().iter().any(|seen| in_target(&seen.target));
    ensure!(!told, "the credential is in an address that was asked for");
    // Damaged so that an error that quotes the file quotes the secret.
    let text = world.credential.text();
    for damaged in [
        format!("{text}x\n"),
        format!("{text}\n\n"),
        format!("\"{text}\"\n"),
        format!(" {text}\n"),
    ] {
        replace(&stage.credential_path(), damaged.as_bytes(), 0o600)?;
        let answer = stage.ask(Call::connect())?;
        quiet(&answer, secret, "with a damaged credential file")?;
        let cut = answer.text().contains(&text[..20]) || answer.text().contains(&text[23..]);
        ensure!(!cut, "the client wrote a part of the credential, with a damaged credential file");
    }
    unwritten(stage, secret)
}

/// The arguments and the environment of the daemon that a client starts, and its log, hold nothing of the
/// credential.
#[case("CRED-10")]
fn client_tells_no_child(stage: &mut Stage) -> Outcome {
    let (world, good) = furnished(stage)?;
    stage.expect("the credential neither in arguments and environment nor in a file");
    let secret = world.credential.bytes();
    drop(good);
    let spy = Spy::new(stage, Part::Hangs)?;
    let caller = stage.call(Call::spawn().stand(spy.program()).within(2))?;
    let pid = spy.seen_started(stage)?;
    let Some(child) = settled(pid) else {
        return Err(Stop::Fault("the spy is not there".to_owned()));
    };
    // What it became has the environment that it was given.
    let environment =
        until(Instant::now() + SOON, || Some(child.environ()).filter(|environment| !environment.is_empty()));
    let environment = environment.unwrap_or_default();
    ensure!(!environment.is_empty(), "the child's environment cannot be read");
    let args = spy.args(pid);
    let told = environment.iter().any(|entry| proof::holds(entry.as_encoded_bytes(), secret))
        || proof::holds(&args, secret);
    ensure!(!told, "the child was given the credential");
    let answer = stage.answer(&caller)?;
    quiet(&answer, secret, "with a child that hangs")?;
    unwritten(stage, secret)
}

/// A client that waits for the answer to its handshake dies of a signal that leaves a core dump, as another process does
/// before it. No file that it leaves holds the credential in any form, and its limit keeps a dump from being handed to a
/// program.
#[case("CRED-15")]
fn client_leaves_no_core_dump(stage: &mut Stage) -> Outcome {
    let world = World::new(stage)?;
    stage.expect("no dump with the credential when the client has died");
    let dumps = Dumps::seen(stage)?;
    let (silent, _) = squat(stage, Squatter::mute())?;
    let place = dumps.place().to_string_lossy().into_owned();
    let call = Call::connect().setup(Dumps::setup());
    let caller = stage.call(call.under(&["sh", "-c", "cd \"$0\" && exec \"$@\"", &place]))?;
    if silent.ledger().wait_request(Instant::now() + SOON).is_none() {
        return Err(Stop::NotReady("the client does not ask the daemon of the record".to_owned()));
    }
    stage.precondition("the client waits for the answer to its proof");
    dumps.ensure_without(stage, &caller, world.credential.bytes())
}

/// The credential is replaced while readers read it: they find the old one or the new one, whole, of mode
/// 0600 from the first instant, whatever the umask is.
#[case("CRED-14")]
fn replaced_in_one_step(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("a finished file renamed over the name, of mode 0600 throughout");
    let name = stage.manifest().binding.credential.clone();
    let path = stage.credential_path();
    let mut last = world.credential.clone();
    for umask in [0, 0o277, 0o022] {
        let watch = Watch::on(stage.state_dir())?;
        let known: Arc<Credential> = Arc::new(last.clone());
        let readers = HostileReader::start(&path, 2, move |bytes| match record::parse_credential(bytes) {
            Some(read) if read == *known => Sight::Whole("old".to_owned()),
            Some(_) if bytes.len() == 44 => Sight::Whole("new".to_owned()),
            _ => Sight::Broken(format!("{} bytes", bytes.len())),
        });
        let setup = Setup { umask: Some(umask), ..Setup::default() };
        let answer = stage.ask(Call::new(Command::Rotate).setup(setup))?;
        let report = readers.stop();
        let new = std::fs::read(&path).ok().and_then(|bytes| record::parse_credential(&bytes));
        let Some(new) = new else {
            return fail(format!("no credential after the replacement: {answer}"));
        };
        stage.transcript().hide(new.bytes());
        ensure!(new != last, "the credential is the same as before: {answer}");
        quiet(&answer, new.bytes(), "replacing it")?;
        stage.precondition("the credential was replaced");
        let events = watch.events();
        let of_name = |kind| events.iter().any(|event| event.kind == kind && event.name == *name);
        ensure!(of_name(FileEventKind::MovedTo), "the new credential was not renamed to its name");
        let written = [
            FileEventKind::Modified,
            FileEventKind::Created,
            FileEventKind::Deleted,
        ];
        let in_place = written.into_iter().find(|kind| of_name(*kind));
        ensure!(in_place.is_none(), "the credential's own name: {in_place}", in_place = in_words(&in_place));
        let broken = report.broken + report.absent;
        ensure!(broken == 0, "{broken} of {} reads found no whole credential", report.reads);
        let loose = watch.loose();
        let seen = loose.first().map(|event| format!("{} {}", event.name.display(), in_words(&event.facts)));
        ensure!(loose.is_empty() && report.loose == 0, "open to others: {seen}", seen = in_words(&seen));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path)?) & 0o7777;
        ensure!(mode == 0o600, "mode {mode:04o}");
        last = new;
    }
    Ok(())
}
