//! Made once, whole, and kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use local_daemon_harness::files::{
    Facts, FileEvent, FileEventKind, HostileReader, ReadReport, Sight, Watch, make_private,
};
use local_daemon_harness::http::{self, Request, Target};
use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::{Proc, Signal};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{self, Record};
use local_daemon_harness::wait::until;

use super::{FOLLOWS, another, file_of};
use crate::case::case;
use crate::fixtures::refused_start::{between_good_starts, refused_as_it_is, sibling};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Daemon, PROBE, Stage, Start};

/// A daemon is started in an empty state directory. What it leaves as credential is 44 bytes: the unpadded
/// base64url text of 32 bytes, and a newline.
#[case("CRED-1")]
fn exact_form(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("43 characters of base64url that encode 32 bytes, a newline, and nothing else");
    let bytes = fs::read(stage.credential_path())?;
    stage.observed(format!("{} bytes", bytes.len()));
    ensure!(bytes == file_of(&live.credential), "the credential is not its 43 characters and one newline");
    Ok(())
}

/// Twelve daemons are started at the same moment in twelve fresh state directories. Their credentials have
/// nothing in common that random bytes would not have.
#[case("CRED-2")]
fn random(stage: &mut Stage) -> Outcome {
    const LAUNCHES: usize = 12;
    stage.expect(format!(
        "{LAUNCHES} credentials with no 4 bytes in common at either end, and bytes and bits as chance has them"
    ));
    let daemons: Vec<Daemon> = (0..LAUNCHES)
        .map(|number| {
            let state_dir = sibling(stage, &format!("fresh-{number}"));
            stage.launch_with(Start::new().state_dir(state_dir))
        })
        .collect::<Outcome<_>>()?;
    let mut keys: Vec<[u8; 32]> = Vec::new();
    for daemon in &daemons {
        keys.push(*stage.ready(daemon)?.credential.bytes());
        daemon.kill_group();
    }
    // Bounds that chance passes less than once in ten million runs.
    for (end, range) in [("first", 0..4), ("last", 28..32)] {
        let ends: BTreeSet<&[u8]> = keys.iter().map(|key| &key[range.clone()]).collect();
        ensure!(ends.len() == LAUNCHES, "only {} different {end} 4 bytes", ends.len());
    }
    for place in 0..32 {
        let values: BTreeSet<u8> = keys.iter().map(|key| key[place]).collect();
        ensure!(values.len() >= 4, "byte {} has only {} values", place + 1, values.len());
    }
    let values: BTreeSet<u8> = keys.iter().flatten().copied().collect();
    let ones: u32 = keys.iter().flatten().map(|byte| byte.count_ones()).sum();
    stage.observed(format!("{} values of a byte, {ones} of {} bits set", values.len(), LAUNCHES * 256));
    // 384 random bytes take about 200 values; the bytes of a text of hexadecimal digits take 16, of base64 64.
    ensure!(values.len() >= 128, "the bytes take only {} values", values.len());
    ensure!(ones.abs_diff(1_536) <= 170, "{ones} of 3072 bits are set");
    Ok(())
}

/// A daemon is started in an empty state directory, several times. Readers that spin on the credential, and
/// notifications of every write, see it absent or whole and nothing else.
#[case("CRED-3")]
fn never_seen_in_part(stage: &mut Stage) -> Outcome {
    const ROUNDS: usize = 5;
    stage.expect("the credential absent or 44 bytes long and well-formed, never written under its own name");
    let name = stage.manifest().binding.credential.clone();
    let mut reads = 0;
    for round in 0..ROUNDS {
        let state_dir = sibling(stage, &format!("fresh-{round}"));
        make_private(&state_dir)?;
        let watch = Watch::on(&state_dir)?;
        let reader = HostileReader::start(&state_dir.join(&name), 2, whole);
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let ready = stage.ready(&daemon);
        daemon.kill_group();
        let report = reader.stop();
        reads += report.reads;
        only_whole(&report)?;
        ready?;
        let of_it = made_once(stage, &watch, &state_dir.join(&name))?;
        never_written(&of_it)?;
    }
    stage.observed(format!("{ROUNDS} first launches, {reads} reads"));
    Ok(())
}

/// What a reader of the credential saw; told apart by a digest, because reports are read by people.
fn whole(bytes: &[u8]) -> Sight {
    match record::parse_credential(bytes) {
        Some(_) if bytes.len() == 44 => Sight::Whole(proof::sha256_hex(bytes)),
        _ => Sight::Broken(format!("{} bytes that are no credential", bytes.len())),
    }
}

fn only_whole(report: &ReadReport) -> Outcome {
    ensure!(
        report.broken == 0,
        "{} of {} reads were broken, such as {}",
        report.broken,
        report.reads,
        in_words(&report.broken_reads.first())
    );
    ensure!(report.whole.len() <= 1, "readers saw {} different credentials", report.whole.len());
    Ok(())
}

/// The credential appeared once, as the file that still is there. Gives back what the watch saw of it.
fn made_once(stage: &mut Stage, watch: &Watch, path: &Path) -> Outcome<Vec<FileEvent>> {
    let name = path.file_name().unwrap_or_default();
    let events = watch.events();
    if events.iter().any(|event| event.kind == FileEventKind::Overflow) {
        return inconclusive("the kernel dropped notifications");
    }
    let of_it: Vec<_> = events.into_iter().filter(|event| event.name == name).collect();
    let appeared = |kind| matches!(kind, FileEventKind::Created | FileEventKind::MovedTo);
    let appearances = of_it.iter().filter(|event| appeared(event.kind)).count();
    if appearances == 0 {
        return inconclusive("nobody was seen to create the credential");
    }
    stage.precondition("the credential appeared under observation");
    ensure!(appearances == 1, "the credential appeared {appearances} times: one replaced the other");
    let first = of_it.iter().find_map(|event| event.facts.as_ref()).map(|facts| facts.ino);
    let last = Facts::of(path)?.ino;
    ensure!(
        first.is_none_or(|first| first == last),
        "the credential was file {first} and is file {last}",
        first = in_words(&first)
    );
    Ok(of_it)
}

/// Nothing was written under the credential's own name, and it never had another length than in the end.
fn never_written(of_it: &[FileEvent]) -> Outcome {
    let written = of_it.iter().any(|event| event.kind == FileEventKind::Modified);
    ensure!(
        !written,
        "the credential was written under its own name: readers find it empty or in part meanwhile"
    );
    let odd = of_it.iter().filter_map(|event| event.facts.as_ref()).find(|facts| facts.len != 44);
    ensure!(odd.is_none(), "seen in between: {odd}", odd = in_words(&odd));
    Ok(())
}

/// Sixteen daemons are held at their very beginning and let go at once in an empty state directory. One
/// credential comes to be, once, and whoever publishes is asked at once whether it accepts that one.
#[case("CRED-4")]
fn sixteen_first_launches(stage: &mut Stage) -> Outcome {
    const LAUNCHES: usize = 16;
    stage.expect("one credential, made once, that every daemon accepts that can be asked");
    stage.arena().make_state_dir()?;
    let asked = Asked::default();
    let watch = Watch::each(stage.state_dir(), {
        let (asked, binding) = (asked.clone(), stage.manifest().binding.clone());
        let (record, credential) = (stage.record_path(), stage.credential_path());
        move |event| {
            let published = matches!(event.kind, FileEventKind::Created | FileEventKind::MovedTo);
            if published && event.name == *binding.registration {
                // On a thread of its own: the next publish, which displaces this one, may be microseconds away.
                asked.ask(&record, &credential, &binding.handshake.method, &binding.handshake.path);
            }
        }
    })?;
    let mut daemons = Vec::new();
    for _ in 0..LAUNCHES {
        daemons.push(stage.launch_with(Start::new().held())?);
    }
    for daemon in &daemons {
        let stopped = || Proc::of(daemon.pid()).filter(|process| process.state == 'T');
        if until(stage.ready_deadline(), stopped).is_none() {
            return inconclusive(format!("{} was not seen held", daemon.name));
        }
    }
    stage.precondition(format!("{LAUNCHES} daemons were held right before their first instruction"));
    for daemon in &daemons {
        daemon.signal(Signal::CONT)?;
    }
    // Whoever is displaced leaves; whoever is left at the end is asked last.
    let left = |daemons: &[Daemon]| daemons.iter().filter(|daemon| daemon.is_running()).count();
    let settled = || (left(&daemons) <= 1).then_some(());
    until(stage.ready_deadline() + FOLLOWS, settled);
    let Some(survivor) = daemons.iter().find(|daemon| daemon.is_running()) else {
        return inconclusive("no daemon is left");
    };
    let live = stage.ready(survivor)?;
    ensure!(
        fs::read(stage.credential_path())? == file_of(&live.credential),
        "the credential is not its 43 characters and one newline"
    );
    made_once(stage, &watch, &stage.credential_path())?;
    let answers = asked.answers();
    stage.observed(format!(
        "asked at their publish: {} accepted, {} were gone",
        answers.iter().filter(|(_, answer)| matches!(answer, Answer::Status(200 | 503))).count(),
        answers.iter().filter(|(_, answer)| matches!(answer, Answer::Gone)).count(),
    ));
    for (id, answer) in answers {
        match answer {
            Answer::Status(200 | 503) | Answer::Gone => {}
            Answer::Status(status) => {
                return fail(format!(
                    "the daemon of id {id} answered the handshake with the credential by {status}"
                ));
            }
            Answer::NoCredential => {
                return fail(format!(
                    "the record of id {id} was published before there was a whole credential"
                ));
            }
        }
    }
    Ok(())
}

/// What a daemon said that was asked at the moment of its publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Status(u16),
    Gone,
    NoCredential,
}

/// Handshakes at the moment of a publish, and what came of them, by the publisher's id.
#[derive(Clone, Default)]
struct Asked {
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asking: Arc<Mutex<Vec<std::thread::JoinHandle<()>>>>,
}

impl Asked {
    fn ask(&self, record: &Path, credential: &Path, method: &str, path: &str) {
        let Some(record) = fs::read(record).ok().and_then(|bytes| Record::parse(&bytes).ok()) else {
            // Whether records are whole is judged in another chapter.
            return;
        };
        let credential = fs::read(credential).ok().and_then(|bytes| record::parse_credential(&bytes));
        let (answers, method, path) = (Arc::clone(&self.answers), method.to_owned(), path.to_owned());
        let thread = std::thread::spawn(move || {
            let target = Target::of(&record);
            let answer = credential.map_or(Answer::NoCredential, |credential| {
                let request = Request::new(&method, &path)
                    .host(&target.authority)
                    .header("Authorization", &proof::bearer(&credential));
                match http::exchange(target.address, &request.bytes(), Instant::now() + PROBE) {
                    Ok(response) => Answer::Status(response.status),
                    Err(_) => Answer::Gone,
                }
            });
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.insert(record.id, answer);
        });
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// Every answer, once all of them are there.
    fn answers(&self) -> BTreeMap<String, Answer> {
        let asking = std::mem::take(&mut *self.asking.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in asking {
            let _ = thread.join();
        }
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A credential meets a graceful restart, a restart after SIGKILL, a second daemon beside the first, and a
/// start that fails because nothing can be written (bitcoin#28784). Another one was put there by hand,
/// without a newline. Each stays the same file with the same bytes.
#[case("CRED-5")]
fn survives_every_start(stage: &mut Stage) -> Outcome {
    stage.expect("the same bytes in the same file after each start");
    let path = stage.credential_path();
    let (first, live) = stage.launch_ready()?;
    let made = (fs::read(&path)?, Facts::of(&path)?.ino);
    let kept = |after: &str| {
        let now = (fs::read(&path), Facts::of(&path).map(|facts| facts.ino));
        let same = matches!(&now, (Ok(bytes), Ok(ino)) if *bytes == made.0 && *ino == made.1);
        let seen = match &now {
            (Ok(bytes), Ok(ino)) if *bytes == made.0 => format!("the same bytes in another file ({ino})"),
            (Ok(bytes), Ok(ino)) => format!("{} other bytes, file {ino}", bytes.len()),
            _ => "gone".to_owned(),
        };
        ensure!(same, "after {after} the credential is {seen}");
        Ok(())
    };
    first.signal(Signal::TERM)?;
    if first.wait_exit(stage.stand_down_deadline()).is_none() {
        return inconclusive("the first daemon does not end on SIGTERM");
    }
    kept("a graceful stop")?;

    let (second, _) = stage.launch_ready()?;
    kept("a restart")?;
    second.kill_group();
    let (_third, _) = stage.launch_ready()?;
    kept("a restart after SIGKILL")?;

    let (_fourth, beside_it) = stage.launch_ready()?;
    kept("a second daemon beside the first")?;
    ensure!(
        beside_it.credential == live.credential,
        "the last daemon accepts another credential than the first made"
    );
    let setup = Setup { file_size: Some(0), ..Setup::default() };
    let fails = stage.launch_with(Start::new().setup(setup))?;
    if fails.wait_exit(stage.ready_deadline()).is_none_or(|exit| exit.code == Some(0)) {
        return inconclusive("a start that may not write a byte into any file did not fail");
    }
    stage.precondition("a start failed, because it may not write a byte into any file");
    kept("a start that failed")?;
    ensure!(
        beside_it.is_ready(),
        "after a start that failed beside it, the running daemon is not ready any more"
    );

    let by_hand = another(stage);
    let state_dir = sibling(stage, "by-hand");
    make_private(&state_dir)?;
    let path = state_dir.join(&stage.manifest().binding.credential);
    record::write_new(&path, by_hand.text().as_bytes(), 0o600)?;
    let before = Facts::of(&path)?;
    let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
    let live = stage.ready(&daemon)?;
    ensure!(
        live.credential == by_hand && Facts::of(&path)? == before,
        "a good credential without a final newline was not left as it is"
    );
    Ok(())
}

/// A daemon is started with credentials that are damaged in many ways: cut, padded, with one newline too
/// many, in another alphabet. It refuses each, leaves it as it is, and does not quote it in the error.
#[case("CRED-6", "CRED-8")]
fn damaged_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path and not the content");
    between_good_starts(stage, |stage, live| {
        let (path, good) = (stage.credential_path(), sibling(stage, "good"));
        fs::rename(&path, &good)?;
        let text = live.credential.text();
        for (what, content) in damaged(&live.credential) {
            record::replace(&path, &content, 0o600)?;
            let said = refused_as_it_is(stage, &format!("a credential {what}"), &path)?;
            let quoted = said.contains(&text[..16]) || proof::holds(said.as_bytes(), live.credential.bytes());
            ensure!(!quoted, "a credential {what} is quoted in the error");
        }
        fs::rename(&good, &path)?;
        Ok(())
    })
}

/// What a credential becomes by accident, or by a reader's leniency: none of it is one.
fn damaged(credential: &Credential) -> Vec<(&'static str, Vec<u8>)> {
    let text = credential.text();
    let (head, last) = text.split_at(42);
    // The last character holds four bits and two that must be zero: the next one in the alphabet, which is also the
    // next one in ASCII, decodes to the same bytes.
    let neighbour = char::from(last.as_bytes()[0] + 1);
    let mut list: Vec<(&str, Vec<u8>)> = [
        ("that is empty", String::new()),
        ("of a newline alone", "\n".to_owned()),
        ("cut to 20 characters", text[..20].to_owned()),
        ("cut to 42 characters", format!("{head}\n")),
        ("with a 44th character", format!("{text}A\n")),
        ("with padding", format!("{text}=\n")),
        ("with two newlines", format!("{text}\n\n")),
        ("with a carriage return", format!("{text}\r\n")),
        ("with a newline before it", format!("\n{text}")),
        ("with a space before it", format!(" {text}\n")),
        ("with a space after it", format!("{text} \n")),
        ("with a NUL after it", format!("{text}\0")),
        ("with a byte order mark", format!("\u{feff}{text}\n")),
        ("in quotes", format!("\"{text}\"\n")),
        ("twice", format!("{text}\n{text}\n")),
        ("with a plus", format!("+{}\n", &text[1..])),
        ("with a slash", format!("/{}\n", &text[1..])),
        ("whose last two bits are not zero", format!("{head}{neighbour}\n")),
        ("in hexadecimal", format!("{}\n", proof::hex(credential.bytes()))),
        ("after a scheme", format!("Bearer {text}\n")),
    ]
    .map(|(what, text)| (what, text.into_bytes()))
    .into();
    list.push(("of 32 raw bytes", credential.bytes().to_vec()));
    list.push(("of 44 zero bytes", vec![0; 44]));
    list
}
