//! The credential: chapter 04.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use local_daemon_harness::files::{
    EntryKind, Facts, FileEvent, FileEventKind, HostileReader, ReadReport, Sight, Snapshot, Watch,
};
use local_daemon_harness::http::{self, Request, Response, Target};
use local_daemon_harness::platform::{self, Setup};
use local_daemon_harness::process::{Proc, Signal};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{self, Record};
use local_daemon_harness::wait::{ms, until};

use super::state_directory::{beside, between_good_starts, refused_as_it_is};
use crate::case::{Case, Outcome};
use crate::stage::{Daemon, Live, PROBE, Stage, Start};

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "credential/exact-form",
        &["CRED-1"],
        "A daemon is started in an empty state directory. What it leaves as credential is 44 bytes: the unpadded \
         base64url text of 32 bytes, and a newline.",
        exact_form,
    ),
    Case::core(
        "credential/random",
        &["CRED-2"],
        "Twelve daemons are started at the same moment in twelve fresh state directories. Their credentials have \
         nothing in common that random bytes would not have.",
        random,
    ),
    Case::core(
        "credential/never-seen-in-part",
        &["CRED-3"],
        "A daemon is started in an empty state directory, several times. Readers that spin on the credential, and \
         notifications of every write, see it absent or whole and nothing else.",
        never_seen_in_part,
    ),
    Case::core(
        "credential/sixteen-first-launches",
        &["CRED-4"],
        "Sixteen daemons are held at their very beginning and let go at once in an empty state directory. One \
         credential comes to be, once, and whoever publishes is asked at once whether it accepts that one.",
        sixteen_first_launches,
    ),
    Case::core(
        "credential/survives-every-start",
        &["CRED-5"],
        "A credential meets a graceful restart, a restart after SIGKILL, a second daemon beside the first, and a start \
         that fails because nothing can be written (bitcoin#28784). Another one was put there by hand, without a \
         newline. Each stays the same file with the same bytes.",
        survives_every_start,
    ),
    Case::core(
        "credential/damaged-refused",
        &["CRED-6", "CRED-8"],
        "A daemon is started with credentials that are damaged in many ways: cut, padded, with one newline too many, \
         in another alphabet. It refuses each, leaves it as it is, and does not quote it in the error.",
        damaged_refused,
    ),
    Case::core(
        "credential/not-in-arguments-or-environment",
        &["CRED-7"],
        "The arguments and the environment of every process of a daemon are looked at again and again: in a first \
         launch, in one that finds the credential, while requests are answered, and during the stop (cqs#1337, \
         podscape#99).",
        not_in_arguments_or_environment,
    ),
    Case::core(
        "credential/not-in-output-or-files",
        &["CRED-8"],
        "A daemon that is asked to log everything gets requests with the credential in every place, right and wrong, \
         and is stopped. Its output and every file but the credential are searched for it in every form \
         (jupyter_server#1681, mcp-memory-service#1117).",
        not_in_output_or_files,
    ),
    Case::core(
        "credential/not-in-answers",
        &["CRED-9"],
        "Requests hold the credential in path, query, method, header and body, with and without authentication, so \
         that an error that repeats what it refuses repeats it. No answer holds it in any form.",
        not_in_answers,
    ),
    Case::core(
        "credential/rotation-taken-on",
        &["CRED-11", "CRED-12"],
        "The credential of a running daemon is replaced. Within 2.5 s it accepts the new one and refuses the old one.",
        rotation_taken_on,
    ),
    // Takes the 2.5 s in which a daemon must have noticed, because what must be seen is that nothing changes.
    Case::core(
        "credential/kept-while-the-file-is-bad",
        &["CRED-13"],
        "While daemons run, their credential files are removed, emptied, loosened, linked elsewhere, given away and \
         blown up, mostly with another credential in them. For 2.5 s each daemon accepts the last good one and nothing \
         else, and then takes on a good replacement.",
        kept_while_the_file_is_bad,
    ),
];

/// Within this a running daemon follows a replaced credential (CRED-11, CRED-12).
const FOLLOWS: Duration = Duration::from_millis(2_500);

/// The content of a credential file.
fn file_of(credential: &Credential) -> Vec<u8> {
    format!("{}\n", credential.text()).into_bytes()
}

/// A credential that the transcript hides, and that no subject made.
fn another(stage: &Stage) -> Credential {
    let credential = Credential::random();
    stage.transcript().hide(credential.bytes());
    credential
}

/// The status of a handshake with `token` as bearer, or with no `Authorization` at all.
fn status(stage: &Stage, target: &Target, token: Option<&str>) -> Result<u16, http::HttpFault> {
    let method = &stage.manifest().binding.handshake.method;
    let request = Request::new(method, &target.path).host(&target.authority);
    let request = match token {
        Some(token) => request.header("Authorization", &format!("Bearer {token}")),
        None => request,
    };
    // Not noted: whoever polls asks hundreds of times.
    http::exchange(target.address, &request.bytes(), Instant::now() + PROBE).map(|answer| answer.status)
}

// Made once.

fn exact_form(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("43 characters of base64url that encode 32 bytes, a newline, and nothing else");
    let bytes = fs::read(stage.credential_path())?;
    stage.observed(format!("{} bytes", bytes.len()));
    stage.ensure(
        bytes == file_of(&live.credential),
        "the credential is not its 43 characters and one newline",
    )
}

fn random(stage: &mut Stage) -> Outcome {
    const LAUNCHES: usize = 12;
    stage.expect(format!(
        "{LAUNCHES} credentials with no 4 bytes in common at either end, and bytes and bits as chance has them"
    ));
    let daemons: Vec<Daemon> = (0..LAUNCHES)
        .map(|number| {
            let state_dir = beside(stage, &format!("fresh-{number}"));
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
        stage.ensure(
            ends.len() == LAUNCHES,
            format!("only {} different {end} 4 bytes", ends.len()),
        )?;
    }
    for place in 0..32 {
        let values: BTreeSet<u8> = keys.iter().map(|key| key[place]).collect();
        stage.ensure(
            values.len() >= 4,
            format!("byte {} has only {} values", place + 1, values.len()),
        )?;
    }
    let values: BTreeSet<u8> = keys.iter().flatten().copied().collect();
    let ones: u32 = keys.iter().flatten().map(|byte| byte.count_ones()).sum();
    stage.observed(format!(
        "{} values of a byte, {ones} of {} bits set",
        values.len(),
        LAUNCHES * 256
    ));
    // 384 random bytes take about 200 values; the bytes of a text of hexadecimal digits take 16, of base64 64.
    stage.ensure(
        values.len() >= 128,
        format!("the bytes take only {} values", values.len()),
    )?;
    stage.ensure(
        ones.abs_diff(1_536) <= 170,
        format!("{ones} of 3072 bits are set"),
    )
}

fn never_seen_in_part(stage: &mut Stage) -> Outcome {
    const ROUNDS: usize = 5;
    stage.expect("the credential absent or 44 bytes long and well-formed, never written under its own name");
    let name = stage.manifest().binding.credential.clone();
    let mut reads = 0;
    for round in 0..ROUNDS {
        let state_dir = beside(stage, &format!("fresh-{round}"));
        fs::DirBuilder::new().mode(0o700).create(&state_dir)?;
        let watch = Watch::on(&state_dir)?;
        let reader = HostileReader::start(&state_dir.join(&name), 2, whole);
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let ready = stage.ready(&daemon);
        daemon.kill_group();
        let report = reader.stop();
        reads += report.reads;
        only_whole(stage, &report)?;
        ready?;
        let of_it = made_once(stage, &watch, &state_dir.join(&name))?;
        never_written(stage, &of_it)?;
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

fn only_whole(stage: &mut Stage, report: &ReadReport) -> Outcome {
    stage.ensure(
        report.broken == 0,
        format!(
            "{} of {} reads were broken, such as {:?}",
            report.broken,
            report.reads,
            report.broken_reads.first()
        ),
    )?;
    stage.ensure(
        report.whole.len() <= 1,
        format!("readers saw {} different credentials", report.whole.len()),
    )
}

/// The credential appeared once, as the file that still is there. Gives back what the watch saw of it.
fn made_once(stage: &mut Stage, watch: &Watch, path: &Path) -> Outcome<Vec<FileEvent>> {
    let name = path.file_name().unwrap_or_default();
    let events = watch.events();
    if events.iter().any(|event| event.kind == FileEventKind::Overflow) {
        return stage.inconclusive("the kernel dropped notifications");
    }
    let of_it: Vec<_> = events.into_iter().filter(|event| event.name == name).collect();
    let appeared = |kind| matches!(kind, FileEventKind::Created | FileEventKind::MovedTo);
    let appearances = of_it.iter().filter(|event| appeared(event.kind)).count();
    if appearances == 0 {
        return stage.inconclusive("nobody was seen to create the credential");
    }
    stage.precondition("the credential appeared under observation");
    stage.ensure(
        appearances == 1,
        format!("the credential appeared {appearances} times: one replaced the other"),
    )?;
    let first = of_it
        .iter()
        .find_map(|event| event.facts.as_ref())
        .map(|facts| facts.ino);
    let last = Facts::of(path)?.ino;
    stage.ensure(
        first.is_none_or(|first| first == last),
        format!("the credential was file {first:?} and is file {last}"),
    )?;
    Ok(of_it)
}

/// Nothing was written under the credential's own name, and it never had another length than in the end.
fn never_written(stage: &mut Stage, of_it: &[FileEvent]) -> Outcome {
    let written = of_it.iter().any(|event| event.kind == FileEventKind::Modified);
    stage.ensure(
        !written,
        "the credential was written under its own name: readers find it empty or in part meanwhile",
    )?;
    let odd = of_it
        .iter()
        .filter_map(|event| event.facts.as_ref())
        .find(|facts| facts.len != 44);
    stage.ensure(odd.is_none(), format!("seen in between: {odd:?}"))
}

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
                asked.ask(
                    &record,
                    &credential,
                    &binding.handshake.method,
                    &binding.handshake.path,
                );
            }
        }
    })?;
    let mut daemons = Vec::new();
    for _ in 0..LAUNCHES {
        daemons.push(stage.launch_with(Start::new().held())?);
    }
    for daemon in &daemons {
        let stopped = || Proc::of(daemon.pid()).filter(|process| process.state == 'T');
        if until(stage.ready_deadline(), ms_of(5), stopped).is_none() {
            return stage.inconclusive(format!("{} was not seen held", daemon.name));
        }
    }
    stage.precondition(format!(
        "{LAUNCHES} daemons were held right before their first instruction"
    ));
    for daemon in &daemons {
        daemon.signal(Signal::CONT)?;
    }
    // Whoever is displaced leaves; whoever is left at the end is asked last.
    let left = |daemons: &[Daemon]| daemons.iter().filter(|daemon| daemon.is_running()).count();
    let settled = || (left(&daemons) <= 1).then_some(());
    until(stage.ready_deadline() + FOLLOWS, ms_of(5), settled);
    let Some(survivor) = daemons.iter().find(|daemon| daemon.is_running()) else {
        return stage.inconclusive("no daemon is left");
    };
    let live = stage.ready(survivor)?;
    stage.ensure(
        fs::read(stage.credential_path())? == file_of(&live.credential),
        "the credential is not its 43 characters and one newline",
    )?;
    made_once(stage, &watch, &stage.credential_path())?;
    let answers = asked.answers();
    stage.observed(format!(
        "asked at their publish: {} accepted, {} were gone",
        answers
            .iter()
            .filter(|(_, answer)| matches!(answer, Answer::Status(200 | 503)))
            .count(),
        answers
            .iter()
            .filter(|(_, answer)| matches!(answer, Answer::Gone))
            .count(),
    ));
    for (id, answer) in answers {
        match answer {
            Answer::Status(200 | 503) | Answer::Gone => {}
            Answer::Status(status) => {
                return stage.fail(format!(
                    "the daemon of id {id} answered the handshake with the credential by {status}"
                ));
            }
            Answer::NoCredential => {
                return stage.fail(format!(
                    "the record of id {id} was published before there was a whole credential"
                ));
            }
        }
    }
    Ok(())
}

const fn ms_of(millis: u64) -> Duration {
    Duration::from_millis(millis)
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
        let credential = fs::read(credential)
            .ok()
            .and_then(|bytes| record::parse_credential(&bytes));
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
        self.asking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
    }

    /// Every answer, once all of them are there.
    fn answers(&self) -> BTreeMap<String, Answer> {
        let asking = std::mem::take(&mut *self.asking.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in asking {
            let _ = thread.join();
        }
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn survives_every_start(stage: &mut Stage) -> Outcome {
    stage.expect("the same bytes in the same file after each start");
    let path = stage.credential_path();
    let (first, live) = stage.launch_ready()?;
    let made = (fs::read(&path)?, Facts::of(&path)?.ino);
    let kept = |stage: &mut Stage, after: &str| {
        let now = (fs::read(&path), Facts::of(&path).map(|facts| facts.ino));
        let same = matches!(&now, (Ok(bytes), Ok(ino)) if *bytes == made.0 && *ino == made.1);
        let seen = match &now {
            (Ok(bytes), Ok(ino)) if *bytes == made.0 => format!("the same bytes in another file ({ino})"),
            (Ok(bytes), Ok(ino)) => format!("{} other bytes, file {ino}", bytes.len()),
            _ => "gone".to_owned(),
        };
        stage.ensure(same, format!("after {after} the credential is {seen}"))
    };
    first.signal(Signal::TERM)?;
    if first.wait_exit(stage.stand_down_deadline()).is_none() {
        return stage.inconclusive("the first daemon does not end on SIGTERM");
    }
    kept(stage, "a graceful stop")?;

    let (second, _) = stage.launch_ready()?;
    kept(stage, "a restart")?;
    second.kill_group();
    let (_third, _) = stage.launch_ready()?;
    kept(stage, "a restart after SIGKILL")?;

    let (_fourth, beside_it) = stage.launch_ready()?;
    kept(stage, "a second daemon beside the first")?;
    stage.ensure(
        beside_it.credential == live.credential,
        "the last daemon accepts another credential than the first made",
    )?;
    let setup = Setup {
        file_size: Some(0),
        ..Setup::default()
    };
    let fails = stage.launch_with(Start::new().setup(setup))?;
    if fails
        .wait_exit(stage.ready_deadline())
        .is_none_or(|exit| exit.code == Some(0))
    {
        return stage.inconclusive("a start that may not write a byte into any file did not fail");
    }
    stage.precondition("a start failed, because it may not write a byte into any file");
    kept(stage, "a start that failed")?;
    stage.ensure(
        stage.is_ready(&beside_it),
        "after a start that failed beside it, the running daemon is not ready any more",
    )?;

    let by_hand = another(stage);
    let state_dir = beside(stage, "by-hand");
    fs::DirBuilder::new().mode(0o700).create(&state_dir)?;
    let path = state_dir.join(&stage.manifest().binding.credential);
    record::write_new(&path, by_hand.text().as_bytes(), 0o600)?;
    let before = Facts::of(&path)?;
    let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
    let live = stage.ready(&daemon)?;
    stage.ensure(
        live.credential == by_hand && Facts::of(&path)? == before,
        "a good credential without a final newline was not left as it is",
    )
}

fn damaged_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path and not the content");
    between_good_starts(stage, |stage, live| {
        let (path, good) = (stage.credential_path(), beside(stage, "good"));
        fs::rename(&path, &good)?;
        let text = live.credential.text();
        for (what, content) in damaged(&live.credential) {
            record::replace(&path, &content, 0o600)?;
            let said = refused_as_it_is(stage, &format!("a credential {what}"), &path)?;
            let quoted = said.contains(&text[..16]) || proof::holds(said.as_bytes(), live.credential.bytes());
            stage.ensure(!quoted, format!("a credential {what} is quoted in the error"))?;
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

// Told to nobody.

/// Requests with the credential in every place, right and wrong, with and without authentication.
fn tell_tales(stage: &Stage, live: &Live) -> Vec<(String, Request)> {
    let (binding, text) = (&stage.manifest().binding, live.credential.text());
    let (host, handshake) = (&live.target.authority, &live.target.path);
    let bearer = proof::bearer(&live.credential);
    let get = |path: &str| Request::get(host, path);
    let mut plain: Vec<(String, Request)> = Vec::new();
    // As text in the three places of a URL, in each form that text can have.
    let forms = proof::forms(live.credential.bytes()).into_iter();
    for form in forms
        .filter_map(|form| String::from_utf8(form).ok())
        .filter(|form| form.is_ascii())
    {
        plain.push(("path".to_owned(), get(&format!("/nowhere/{form}"))));
        plain.push(("query".to_owned(), get(&format!("/nowhere?token={form}"))));
        plain.push((
            "handshake's query".to_owned(),
            get(&format!("{handshake}?token={form}")),
        ));
    }
    for (name, value) in [
        ("X-Token", text.clone()),
        ("Cookie", format!("token={text}")),
        ("Referer", format!("http://{host}/?token={text}")),
        ("Origin", format!("http://{text}.example")),
        ("Accept", format!("text/{text}")),
        ("Content-Type", format!("text/{text}")),
        ("Local-Daemon-Protocol", text.clone()),
        (text.as_str(), "a name".to_owned()),
    ] {
        plain.push((format!("header {name}"), get(handshake).header(name, &value)));
        plain.push((format!("header {name}"), get("/nowhere").header(name, &value)));
    }
    plain.push(("method".to_owned(), Request::new(&text, handshake).host(host)));
    plain.push((
        "body".to_owned(),
        Request::new("POST", "/nowhere")
            .host(host)
            .json(format!("{{\"token\":\"{text}\"}}")),
    ));
    plain.push((
        "handshake's body".to_owned(),
        Request::new("POST", handshake)
            .host(host)
            .json(format!("\"{text}\"")),
    ));
    for operation in [&binding.authenticated_read, &binding.mutation]
        .into_iter()
        .flatten()
    {
        let to = |path: &str| Request::new(&operation.method, path).host(host);
        let path = operation.path.as_str();
        plain.push((format!("path below {path}"), to(&format!("{path}/{text}"))));
        // Bodies that no operation takes: an unknown member, another type, half an object.
        for body in [
            format!("{{\"{text}\":1}}"),
            format!("\"{text}\""),
            format!("{{\"id\":\"{text}\","),
        ] {
            plain.push((format!("body to {path}"), to(path).json(body)));
        }
    }
    let authenticated = plain.iter().map(|(what, request)| {
        (
            format!("{what}, authenticated"),
            request.clone().header("Authorization", &bearer),
        )
    });
    let mut all: Vec<(String, Request)> = plain.iter().cloned().chain(authenticated).collect();
    // Authentication that is nearly right.
    for value in [
        format!("Basic {text}"),
        format!("Token {text}"),
        format!("Bearer {text}x"),
        format!("Bearer {text} {text}"),
        format!("Bearer\t{text}"),
        format!("Bearer{text}"),
        text.clone(),
        format!("Local-Daemon-Proof nonce=\"{text}\", mac=\"{text}\""),
        format!("Local-Daemon-Proof {text}"),
        bearer.clone(),
    ] {
        all.push((
            "authorization".to_owned(),
            get(handshake).header("Authorization", &value),
        ));
        all.push((
            "authorization".to_owned(),
            get("/nowhere").header("Authorization", &value),
        ));
    }
    all.push((
        "host".to_owned(),
        Request::get(&format!("{text}:1"), handshake).header("Authorization", &bearer),
    ));
    all.push((
        "large header".to_owned(),
        get(handshake).header("X-Token", &format!("{text} ").repeat(4_000)),
    ));
    all
}

/// Sends every tell-tale request; returns how many were answered, with every answer.
fn tell_all(stage: &mut Stage, live: &Live) -> Vec<(String, Response)> {
    let mut answers = Vec::new();
    let mut unanswered = 0;
    for (what, request) in tell_tales(stage, live) {
        // Not noted: it would be the credential, over and over.
        match http::exchange(live.target.address, &request.bytes(), Instant::now() + PROBE) {
            Ok(response) => answers.push((what, response)),
            Err(_) => unanswered += 1,
        }
    }
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for (_, response) in &answers {
        *statuses.entry(response.status).or_default() += 1;
    }
    stage.observed(format!(
        "{} requests that hold the credential were answered, by status: {statuses:?}; {unanswered} were not",
        answers.len()
    ));
    answers
}

fn not_in_answers(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("no answer that holds the credential in any form, in a header or in the body");
    stage.between_controls(&live, |stage| {
        let answers = tell_all(stage, &live);
        if answers.is_empty() {
            return stage.inconclusive("no request was answered");
        }
        for (what, response) in answers {
            let head: Vec<String> = response
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect();
            let head = head.join("\n");
            for (place, bytes) in [("headers", head.as_bytes()), ("body", &response.body)] {
                stage.ensure(
                    !proof::holds(bytes, live.credential.bytes()),
                    format!(
                        "credential in the {what}: the {} has it in its {place}",
                        response.status
                    ),
                )?;
            }
        }
        Ok(())
    })
}

fn not_in_output_or_files(stage: &mut Stage) -> Outcome {
    stage.expect("the credential in no output and in no file but its own, in any form");
    // The usual names of the switch, so that what is hidden at the usual level is seen too.
    let start = Start::new()
        .var("RUST_LOG", "trace")
        .var("LOG_LEVEL", "trace")
        .var("DEBUG", "*");
    let daemon = stage.launch_with(start.clone())?;
    let live = stage.ready(&daemon)?;
    stage.between_controls(&live, |stage| {
        if tell_all(stage, &live).is_empty() {
            return stage.inconclusive("no request was answered");
        }
        Ok(())
    })?;
    nowhere_else(stage, &live, "after the requests")?;
    daemon.signal(Signal::TERM)?;
    if daemon.wait_exit(stage.stand_down_deadline()).is_none() {
        return stage.inconclusive("the daemon does not end on SIGTERM");
    }
    let again = stage.launch_with(start)?;
    stage.ready(&again)?;
    nowhere_else(stage, &live, "after a restart")?;
    let mut written = 0;
    for daemon in [daemon, again] {
        daemon.kill_group();
        let output = daemon
            .wait_output_end(ms(1_000))
            .unwrap_or_else(|| daemon.output());
        for (stream, bytes) in [
            ("standard output", output.stdout()),
            ("standard error", output.stderr()),
        ] {
            written += bytes.len();
            stage.ensure(
                !proof::holds(&bytes, live.credential.bytes()),
                format!("{} wrote the credential to {stream}", daemon.name),
            )?;
        }
    }
    stage.observed(format!("{written} bytes of output"));
    Ok(())
}

/// No file of the case's world but the credential holds the credential.
fn nowhere_else(stage: &mut Stage, live: &Live, when: &str) -> Outcome {
    let (root, own) = (stage.arena().path().to_owned(), stage.credential_path());
    let mut searched = 0;
    for (name, entry) in Snapshot::of(&root)?.0 {
        let path = root.join(&name);
        if entry.facts.kind != EntryKind::File || path == own {
            continue;
        }
        // What is gone by now was a temporary file.
        let Ok(bytes) = fs::read(&path) else { continue };
        searched += 1;
        stage.ensure(
            !proof::holds(&bytes, live.credential.bytes()),
            format!("{when} {} holds the credential", name.display()),
        )?;
    }
    stage.observed(format!("{when} {searched} other files were searched"));
    Ok(())
}

/// Looks at the arguments and environments of a daemon's processes until it is told to stop.
struct Sampler {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, BTreeSet<OsString>)>,
}

impl Sampler {
    fn of(daemon: &Daemon) -> Self {
        let (stop, daemon) = (Arc::new(AtomicBool::new(false)), daemon.clone());
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let (mut looks, mut seen) = (0, BTreeSet::new());
                while !stop.load(Ordering::Relaxed) {
                    for process in daemon.tree() {
                        seen.extend(process.argv());
                        seen.extend(process.environ());
                    }
                    looks += 1;
                    std::thread::yield_now();
                }
                (looks, seen)
            })
        };
        Self { stop, thread }
    }

    /// How often it looked, and every string that it saw.
    fn stop(self) -> (usize, BTreeSet<OsString>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn not_in_arguments_or_environment(stage: &mut Stage) -> Outcome {
    stage.expect("the credential in no argument and no variable of any process of the daemon, in any form");
    for launch in ["a first launch", "a launch that finds the credential"] {
        let daemon = stage.launch()?;
        let sampler = Sampler::of(&daemon);
        let live = stage.ready(&daemon)?;
        let binding = stage.manifest().binding.clone();
        for operation in [&binding.authenticated_read, &binding.mutation]
            .into_iter()
            .flatten()
        {
            let request = stage.operation(&live, operation);
            // What it answers is judged elsewhere; here it may be the reason to start something.
            let _ = stage.send(
                &live,
                &request.header("Authorization", &proof::bearer(&live.credential)),
            );
        }
        daemon.signal(Signal::TERM)?;
        let ended = daemon.wait_exit(stage.stand_down_deadline()).is_some();
        let (looks, seen) = sampler.stop();
        // The control: the sampler sees what is there to be seen.
        let tag = stage.arena().tag().to_owned();
        if !seen.iter().any(|string| string.to_string_lossy().ends_with(&tag)) {
            return stage.inconclusive(format!(
                "{launch}: the suite's own tag was not seen in any environment"
            ));
        }
        stage.control(format!(
            "{launch}: in {looks} looks at its processes the suite's own tag was seen in an environment"
        ));
        if !ended {
            return stage.inconclusive(format!("{launch}: it does not end on SIGTERM"));
        }
        for string in seen {
            if proof::holds(string.as_bytes(), live.credential.bytes()) {
                let name = string
                    .to_string_lossy()
                    .split('=')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                return stage.fail(format!(
                    "{launch}: an argument or variable holds the credential: {name}"
                ));
            }
        }
    }
    Ok(())
}

// Replaced on request.

fn rotation_taken_on(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("within 2.5 s of the replacement 200 for the new credential and 401 for the old one");
    let (old, new) = (live.credential.text(), another(stage));
    let answer = |stage: &Stage, token: &str| status(stage, &live.target, Some(token));
    let before = (answer(stage, &old), answer(stage, &new.text()));
    if before != (Ok(200), Ok(401)) {
        return stage.inconclusive(format!(
            "before the replacement old and new are answered {before:?}"
        ));
    }
    stage.control("before the replacement the old credential was answered 200 and the new one 401");
    record::replace(&stage.credential_path(), &file_of(&new), 0o600)?;
    let began = Instant::now();
    for (which, token, wanted) in [("new", new.text(), 200), ("old", old.clone(), 401)] {
        let mut last = None;
        let came = until(began + FOLLOWS, ms_of(5), || {
            last = Some(answer(stage, &token));
            (last == Some(Ok(wanted))).then(|| began.elapsed())
        });
        match came {
            Some(after) => stage.observed(format!("{which}: {wanted} after {} ms", after.as_millis())),
            None => {
                return stage.fail(format!(
                    "2.5 s after the replacement the {which} credential is answered {last:?}"
                ));
            }
        }
    }
    if let Some(read) = stage.manifest().binding.authenticated_read.clone() {
        let ask = |stage: &Stage, token: &str| {
            let request = stage
                .operation(&live, &read)
                .header("Authorization", &format!("Bearer {token}"));
            stage.send(&live, &request).map(|response| response.status)
        };
        let (with_new, with_old) = (ask(stage, &new.text()), ask(stage, &old));
        stage.ensure(
            matches!(with_new, Ok(200..=299)) && with_old == Ok(401),
            format!(
                "{} is answered {with_new:?} with the new and {with_old:?} with the old",
                read.path
            ),
        )?;
    }
    let renewed = Live {
        credential: new,
        ..live
    };
    stage.ensure(
        stage.is_ready(&renewed),
        "after the replacement the daemon is not ready",
    )
}

/// What becomes of a credential file while its daemon runs, and how.
type Damage = (&'static str, fn(&Path, &Credential) -> std::io::Result<()>);

const DAMAGES: &[Damage] = &[
    ("removed", |path, _| fs::remove_file(path)),
    ("emptied", |path, _| {
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)
            .map(drop)
    }),
    ("cut", |path, other| {
        record::replace(path, &file_of(other)[..30], 0o600)
    }),
    ("replaced by one of mode 0644", |path, other| {
        record::replace(path, &file_of(other), 0o644)
    }),
    ("loosened to 0644", |path, _| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))
    }),
    ("replaced by a link", |path, other| {
        let (target, link) = (path.with_extension("target"), path.with_extension("link"));
        record::write_new(&target, &file_of(other), 0o600)?;
        symlink(&target, &link)?;
        fs::rename(&link, path)
    }),
    ("replaced by one of 64 KiB and 44 bytes", |path, other| {
        let mut content = file_of(other);
        content.resize(64 * 1024 + 44, b'\n');
        record::replace(path, &content, 0o600)
    }),
];

/// Only where the suite may give files away.
const GIVEN_AWAY: Damage = ("replaced by one of another user", |path, other| {
    let nobody = platform::nobody().ok_or(std::io::ErrorKind::Unsupported)?;
    let given = path.with_extension("given");
    record::write_new(&given, &file_of(other), 0o600)?;
    chown(&given, Some(nobody.uid), Some(nobody.gid))?;
    fs::rename(&given, path)
});

/// A daemon whose credential file goes bad.
struct Afflicted {
    what: &'static str,
    daemon: Daemon,
    live: Live,
    path: PathBuf,
    planted: Credential,
}

fn kept_while_the_file_is_bad(stage: &mut Stage) -> Outcome {
    stage.expect(
        "for 2.5 s 200 for the last good credential and 401 for everything else; then a good one is taken on",
    );
    let mut damages = DAMAGES.to_vec();
    if platform::is_root() && platform::nobody().is_some() {
        damages.push(GIVEN_AWAY);
    }
    let mut afflicted = Vec::new();
    for (number, (what, _)) in damages.iter().enumerate() {
        let state_dir = beside(stage, &format!("state-{number}"));
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let path = state_dir.join(&stage.manifest().binding.credential);
        let planted = another(stage);
        afflicted.push((what, daemon, path, planted));
    }
    let mut ready = Vec::new();
    for (what, daemon, path, planted) in afflicted {
        let live = stage.ready(&daemon)?;
        ready.push(Afflicted {
            what,
            daemon,
            live,
            path,
            planted,
        });
    }
    for one in &ready {
        goes_on(stage, one)?;
    }
    stage.control("before, each daemon answered its credential 200 and everything else 401");
    for (one, (_, damage)) in ready.iter().zip(&damages) {
        damage(&one.path, &one.planted)?;
    }
    let end = Instant::now() + FOLLOWS;
    while Instant::now() < end {
        for one in &ready {
            goes_on(stage, one)?;
        }
        // The event that must not come, and a breath between two rounds.
        if let Some(exit) = ready[0].daemon.wait_exit(ms(100)) {
            return stage.fail(format!("credential {}: the daemon ended, {exit}", ready[0].what));
        }
    }
    stage.observed(format!(
        "{} daemons went on with their last good credential",
        ready.len()
    ));
    // The control: each of them is still following its file.
    for one in &ready {
        record::replace(&one.path, &file_of(&one.planted), 0o600)?;
    }
    let began = Instant::now();
    for one in &ready {
        let followed = until(began + FOLLOWS, ms_of(5), || {
            (status(stage, &one.live.target, Some(&one.planted.text())) == Ok(200)).then_some(())
        });
        stage.ensure(
            followed.is_some(),
            format!(
                "credential {}: 2.5 s after a good one is there again, it is not accepted",
                one.what
            ),
        )?;
    }
    stage.control("afterwards each daemon took on a good replacement");
    Ok(())
}

/// The daemon accepts its last good credential, and neither the planted one nor none.
fn goes_on(stage: &mut Stage, one: &Afflicted) -> Outcome {
    let (good, planted) = (one.live.credential.text(), one.planted.text());
    for (token, wanted, what) in [
        (Some(&*good), 200, "the last good credential"),
        (Some(&*planted), 401, "a credential in a file to be refused"),
        (Some(""), 401, "an empty bearer"),
        (None, 401, "no authorization"),
    ] {
        let answer = status(stage, &one.live.target, token);
        stage.ensure(
            answer == Ok(wanted),
            format!("credential {}: {what} is answered {answer:?}", one.what),
        )?;
    }
    Ok(())
}
