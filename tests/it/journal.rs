//! Logs that are kept in a file: the file against one that never forgets, crashes, damage, a full disk, two writers.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use local_daemon::state_directory::{FileError, FileErrorKind};
use local_daemon::streams::{End, EventId, Hub, Limits, Next, Selection, Subscriber};
use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

const EPOCH: u32 = 0x5f0c_2a9b;
const TOPICS: &[&str] = &["output", "state"];
/// Which file a test is to write to that was started by itself as another process.
const CHILD: &str = "JOURNAL_OF_CHILD";

/// A file that is not there yet, and what removes its directory.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    (directory, path)
}

fn try_open(path: &Path, limits: Limits) -> Result<Arc<Hub>, FileError> {
    Hub::open(path, EPOCH, TOPICS, limits).map(Arc::new)
}

fn open(path: &Path) -> Arc<Hub> {
    try_open(path, Limits::default()).unwrap()
}

fn id(seq: u64) -> EventId {
    EventId { epoch: EPOCH, seq }
}

fn frame(seq: u64, topic: usize, data: &str) -> String {
    format!("id: {}\nevent: {}\ndata: {data}\n\n", id(seq), TOPICS[topic])
}

/// Appends an event, and gives its number.
fn append(hub: &Hub, topic: usize, data: &str) -> u64 {
    let id = hub.append_line(TOPICS[topic], data.as_bytes()).unwrap().unwrap();
    assert_eq!(id.epoch, EPOCH);
    id.seq
}

/// A file with events of these data, and its text.
fn written(path: &Path, data: &[&str]) -> String {
    let hub = open(path);
    for data in data {
        append(&hub, 0, data);
    }
    fs::read_to_string(path).unwrap()
}

fn next(subscriber: &mut Subscriber) -> Option<Next> {
    match subscriber.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(next) => Some(next),
        Poll::Pending => None,
    }
}

/// The number of the oldest event that is held, and all that are.
fn held(hub: &Arc<Hub>) -> (u64, String) {
    let selection = Selection { topics: None, after: Some(id(0)) };
    let mut reader = hub.subscribe(&selection).unwrap();
    let (mut first, mut text) = (1, String::new());
    loop {
        match next(&mut reader) {
            Some(Next::Gap { first: goes_on, after }) => {
                assert_eq!((after, text.as_str()), (id(0), ""), "a gap is at the beginning");
                first = goes_on.seq;
            }
            Some(Next::Frames(frames)) => text += str::from_utf8(&frames).unwrap(),
            None => return (first, text),
            other => panic!("{other:?}"),
        }
    }
}

/// Frames by their numbers; what comes last may not be whole.
fn by_number(text: &str) -> BTreeMap<u64, &str> {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end + 2]);
    let frames = whole.split_inclusive("\n\n").map(|frame| {
        let id = frame.lines().next().and_then(|line| line.strip_prefix("id: "));
        let id: EventId = id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{frame:?}"));
        (id.seq, frame)
    });
    frames.collect()
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        topic: usize,
        length: usize,
    },
    /// The process ends, and had so much of the next frame written.
    Reopen {
        torn: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..TOPICS.len(), prop_oneof![1..200_usize, Just(3_000), Just(40_000)])
            .prop_map(|(topic, length)| Step::Append { topic, length }),
        1 => (0..60_usize).prop_map(|torn| Step::Reopen { torn }),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// CTL-17, CTL-20, CTL-26, STR-11, STR-21, STR-22
    #[test]
    fn a_file_is_a_log_that_forgets_the_oldest(
        steps in steps(),
        events in 0..20_usize,
        bytes in prop_oneof![Just(500_usize), Just(50_000), Just(200_000)],
    ) {
        let (_directory, path) = place();
        let limits = Limits { events, bytes };
        let mut hub = try_open(&path, limits).unwrap();
        let mut all: Vec<String> = Vec::new();
        for step in steps {
            let seq = all.len() as u64 + 1;
            match step {
                Step::Append { topic, length } => {
                    let data = "x".repeat(length);
                    prop_assert_eq!(append(&hub, topic, &data), seq);
                    all.push(frame(seq, topic, &data));
                }
                Step::Reopen { torn } => {
                    drop(hub);
                    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                    file.write_all(&frame(seq, 0, &"x".repeat(60)).as_bytes()[..torn]).unwrap();
                    hub = try_open(&path, limits).unwrap();
                }
            }
            let mut room = bytes;
            let kept = all.iter().rev().take(events).take_while(|frame| {
                let fits = room >= frame.len();
                room = room.saturating_sub(frame.len());
                fits
            }).count();
            let (first, text) = held(&hub);
            prop_assert_eq!(first, (all.len() - kept) as u64 + 1);
            prop_assert_eq!(&text, &all[all.len() - kept..].concat());
            let file = fs::read_to_string(&path).unwrap();
            prop_assert!(file.ends_with(&text), "what is held is not in the file");
            prop_assert!(file.len() <= 2 * text.len() + 4096, "{} bytes for {}", file.len(), text.len());
        }
    }

    /// Whatever stands before the last frame: it is kept, and no number is used again.
    #[test]
    fn damage_takes_no_more_than_what_is_before(
        lengths in proptest::collection::vec(1..40_usize, 1..8),
        begin: prop::sample::Index,
        garbage in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..60),
            "[\n0-9abcdf: -]{1,20}".prop_map(String::into_bytes),
        ],
    ) {
        let (_directory, path) = place();
        let data: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
        let mut text = written(&path, &data.iter().map(String::as_str).collect::<Vec<_>>()).into_bytes();
        let last = frame(data.len() as u64, 0, &data[data.len() - 1]);
        // The empty line before it is where it begins.
        let damageable = (text.len() - last.len()).saturating_sub(2);
        if damageable > 0 {
            let begin = begin.index(damageable);
            let end = damageable.min(begin + garbage.len());
            text[begin..end].copy_from_slice(&garbage[..end - begin]);
            // Which of three line breaks are the empty line is another matter.
            if text[end - 1] == b'\n' {
                text[end - 1] = b'~';
            }
            fs::write(&path, &text).unwrap();
        }
        for _ in 0..2 {
            let hub = open(&path);
            let (first, text) = held(&hub);
            let numbers: Vec<u64> = by_number(&text).into_keys().collect();
            let appended = append(&hub, 0, "1");
            prop_assert!(appended > data.len() as u64);
            prop_assert_eq!(numbers, (first..appended).collect::<Vec<_>>());
            // Only digits that damage made of others hide it: there is a higher number then.
            prop_assert!(text.contains(&last) || appended > data.len() as u64 + 1);
        }
    }
}

#[test]
fn a_log_goes_on_where_the_last_process_ended() {
    let (_directory, path) = place();
    let hub = open(&path);
    assert_eq!(append(&hub, 0, "\"one\""), 1);
    assert_eq!(append(&hub, 1, "2"), 2);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let text = frame(1, 0, "\"one\"") + &frame(2, 1, "2");
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "as it is sent");
    drop(hub);

    let hub = open(&path);
    let selection = Selection { topics: Some(vec!["state".to_owned()]), after: Some(id(1)) };
    let mut reader = hub.subscribe(&selection).unwrap();
    assert_eq!(next(&mut reader), Some(Next::Frames(frame(2, 1, "2").into())));
    append(&hub, 0, "3");
    assert_eq!(next(&mut reader), None);
    append(&hub, 1, "4");
    assert_eq!(next(&mut reader), Some(Next::Frames(frame(4, 1, "4").into())));
}

#[test]
fn a_frame_that_was_not_written_whole_never_was() {
    let (_directory, path) = place();
    let text = written(&path, &["1", "2"]);
    let (before, torn) = text.split_at(frame(1, 0, "1").len());
    for end in 0..torn.len() {
        for zeros in [0, 7] {
            let mut file = [before.as_bytes(), &torn.as_bytes()[..end]].concat();
            file.resize(file.len() + zeros, 0);
            fs::write(&path, file).unwrap();
            let hub = open(&path);
            assert_eq!(held(&hub), (1, before.to_owned()));
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
            assert_eq!(append(&hub, 1, "9"), 2);
            assert_eq!(fs::read_to_string(&path).unwrap(), before.to_owned() + &frame(2, 1, "9"));
        }
    }
}

#[test]
fn what_is_before_damage_is_a_gap() {
    let (_directory, path) = place();
    let text = written(&path, &["1", "2", "3", "4", "5"]);
    let (two, three) = (frame(2, 0, "2"), frame(3, 0, "3"));
    let rest = frame(4, 0, "4") + &frame(5, 0, "5");
    for damaged in [
        text.replace(&three, ""),
        text.replace(&three, &two),
        text.replace(&three, "~\n\n"),
        text.replace(&three, "\n\n\n\n"),
        text.replace("data: 3", "data: 3\nretry: 0"),
        text.replace("data: 3", "data: \r\r3"),
        text.replace("output\ndata: 3", "other\ndata: 3"),
        text.replace(&id(3).to_string(), "00000007-3"),
        text.replace(&id(3).to_string(), &id(u64::MAX).to_string()),
    ] {
        fs::write(&path, &damaged).unwrap();
        for _ in 0..2 {
            assert_eq!(held(&open(&path)), (4, rest.clone()), "{damaged}");
        }
        assert_eq!(append(&open(&path), 0, "6"), 6);
    }
}

#[test]
fn the_numbers_of_damaged_events_are_not_used_again() {
    let (_directory, path) = place();
    let text = written(&path, &["1", "2", "3"]);
    for damaged in [
        text.replace("id: 5f0c2a9b-3", "id: 5f0c2a9b_3"),
        text.clone() + &frame(1, 0, "1"),
        text.replace("id: 5f0c2a9b-2", "~").replace("data: 3\n\n", ""),
        text.replace("\n\nid: 5f0c2a9b-3", "\n\nid: 5f0c2a9b-\0").replace("3\n\n", "3"),
    ] {
        fs::write(&path, &damaged).unwrap();
        let mut least = 4;
        for _ in 0..3 {
            // Also where nothing is appended in between.
            drop(open(&path));
            let hub = open(&path);
            assert!(held(&hub).0 >= 4, "{damaged}");
            let seq = append(&hub, 0, "4");
            assert!(seq >= least, "{seq} after {damaged}");
            least = seq + 1;
        }
    }
}

/// The number of the next event is known also of a file that holds none.
#[test]
fn a_log_that_holds_nothing_counts_on() {
    let (_directory, path) = place();
    let limits = Limits { events: 10, bytes: 100 };
    let long = "x".repeat(5_000);
    for seq in 1..5 {
        let hub = try_open(&path, limits).unwrap();
        assert_eq!(held(&hub), (seq, String::new()));
        assert_eq!(append(&hub, 0, &long), seq);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!(": from {}\n\n", id(seq + 1)));
    }
}

#[test]
fn what_is_no_file_of_this_log_is_refused_and_left() {
    let (directory, path) = place();
    let refused = |path: &Path| {
        let fault = try_open(path, Limits::default()).unwrap_err();
        assert!(fault.to_string().starts_with(&path.display().to_string()), "{fault}");
        fault.kind
    };
    let other = frame(1, 0, "1").replace("5f0c2a9b", "00000007");
    for text in [&other, &other[..20], "a diary", "a diary\n\nof somebody"] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(refused(&path), FileErrorKind::Foreign), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    fs::File::options().write(true).open(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    assert!(matches!(refused(&path), FileErrorKind::Longer(longest) if longest == 64 << 20));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(refused(&path), FileErrorKind::Mode(0o640)));
    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(refused(&link), FileErrorKind::Symlink));
    let missing = directory.path().join("nowhere/log");
    assert!(matches!(refused(&missing), FileErrorKind::Missing));
}

/// CTL-22
#[test]
fn a_file_has_one_writer_until_its_streams_end() {
    let (_directory, path) = place();
    let limits = Limits { events: 10, bytes: 1_000 };
    let hub = try_open(&path, limits).unwrap();
    for _ in 0..2 {
        let fault = try_open(&path, limits).unwrap_err();
        assert!(matches!(fault.kind, FileErrorKind::Locked), "{fault}");
        // The lock is on the file that takes its place, too.
        let before = fs::metadata(&path).unwrap().len();
        append(&hub, 0, &"x".repeat(5_000));
        assert!(fs::metadata(&path).unwrap().len() <= before.max(100));
    }
    append(&hub, 0, "3");
    let mut reader = hub.subscribe(&Selection::default()).unwrap();
    hub.end(End::Superseded { successor: None });
    let successor = try_open(&path, limits).unwrap();
    assert_eq!(held(&successor), (3, frame(3, 0, "3")));
    assert_eq!(append(&successor, 0, "4"), 4);
    assert_eq!(hub.append_line("output", b"4").unwrap(), None);
    assert!(matches!(next(&mut reader), Some(Next::End(_))));
}

/// A child has every file of its parent's until its program begins, and must not keep the lock.
#[test]
fn a_child_that_begins_meanwhile_keeps_no_lock() {
    let (_directory, path) = place();
    let children = thread::spawn(|| {
        for _ in 0..100 {
            assert!(Command::new("true").status().unwrap().success());
        }
    });
    while !children.is_finished() {
        open(&path).end(End::Shutdown);
    }
    children.join().unwrap();
}

/// Whoever opens the file while its last owner replaces it finds the one that is there then.
#[test]
fn a_number_is_one_writers_alone() {
    let (_directory, path) = place();
    let limits = Limits { events: 1, bytes: 100 };
    let numbers = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut turns = 0;
                while turns < 50 {
                    match try_open(&path, limits) {
                        Ok(hub) => {
                            // Each takes a file of its own.
                            let seqs = [0, 1].map(|topic| append(&hub, topic, &"x".repeat(5_000)));
                            numbers.lock().unwrap().extend(seqs);
                            turns += 1;
                        }
                        Err(fault) => assert!(matches!(fault.kind, FileErrorKind::Locked), "{fault}"),
                    }
                }
            });
        }
    });
    let numbers = numbers.into_inner().unwrap();
    let different: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!((numbers.len(), different.into_iter().collect()), (400, (1..=400).collect::<Vec<_>>()));
}

#[test]
fn a_file_that_cannot_be_replaced_goes_on() {
    let (_directory, path) = place();
    let limits = Limits { events: 2, bytes: 1_000 };
    let hub = try_open(&path, limits).unwrap();
    let beside = path.with_extension("tmp");
    fs::create_dir(&beside).unwrap();
    let data = "x".repeat(300);
    for seq in 1..100 {
        assert_eq!(append(&hub, 0, &data), seq);
    }
    assert!(fs::metadata(&path).unwrap().len() > 30_000);
    fs::remove_dir(&beside).unwrap();
    // What is left of another attempt is not added to.
    fs::write(&beside, "half").unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    let mut seq = 99;
    while fs::metadata(&path).unwrap().len() > 5_000 {
        seq += 1;
        assert_eq!(append(&hub, 0, &data), seq);
    }
    assert!((101..200).contains(&seq), "it is tried again, not every time: {seq}");
    assert!(fs::read_to_string(&path).unwrap().starts_with(": from "));
    drop(hub);
    // What a process leaves that is killed meanwhile.
    fs::write(&beside, "half").unwrap();
    let text = frame(seq - 1, 0, &data) + &frame(seq, 0, &data);
    assert_eq!(held(&try_open(&path, limits).unwrap()), (seq - 1, text));
    assert!(!beside.exists());
}

/// This test as another process that writes to the file at `path`.
fn child(test: &str, path: &Path) -> Command {
    // What the shell ignores is ignored by what takes its place: a file that is too long is an error then.
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 0777; trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("journal::{test}"), "--nocapture"])
        .env(CHILD, path);
    command
}

/// CTL-20: nobody is sent what is not in the file.
#[test]
fn a_full_disk_takes_no_event_and_leaves_the_file_as_it_was() {
    let Some(path) = env::var_os(CHILD).map(PathBuf::from) else {
        let (_directory, path) = place();
        let test = "a_full_disk_takes_no_event_and_leaves_the_file_as_it_was";
        let output = child(test, &path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(by_number(&fs::read_to_string(&path).unwrap()).len(), 3);
        return;
    };
    let unlimited = getrlimit(Resource::Fsize);
    let limit = |current| setrlimit(Resource::Fsize, Rlimit { current, ..unlimited }).unwrap();
    let hub = open(&path);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "whatever the umask");
    append(&hub, 0, "1");
    append(&hub, 1, "2");
    let mut reader = hub.subscribe(&Selection::default()).unwrap();
    assert_eq!(next(&mut reader), None);
    let before = fs::read_to_string(&path).unwrap();
    let frame = frame(3, 0, "3");
    for room in 0..frame.len() {
        limit(Some((before.len() + room) as u64));
        let error = hub.append_line("output", b"3").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        assert_eq!(next(&mut reader), None);
        assert_eq!(held(&hub), (1, before.clone()));
    }
    limit(unlimited.current);
    assert_eq!(append(&hub, 0, "3"), 3);
    assert_eq!(next(&mut reader), Some(Next::Frames(frame.clone().into())));
    assert_eq!(fs::read_to_string(&path).unwrap(), before + &frame);
}

/// Appends as fast as it can, and says on standard error what a reader is sent, until it is killed.
fn append_and_tell(path: &Path, limits: Limits) {
    let hub = try_open(path, limits).unwrap();
    let mut reader = hub.subscribe(&Selection::default()).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        loop {
            if let Next::Frames(frames) = runtime.block_on(poll_fn(|context| reader.poll_next(context))) {
                io::stderr().write_all(&frames).unwrap();
            }
        }
    });
    let ends = Instant::now() + Duration::from_secs(20);
    let writer = std::process::id();
    for count in 0.. {
        hub.append("output", &json!({"writer": writer, "count": count})).unwrap();
        if Instant::now() > ends {
            return;
        }
    }
}

/// CTL-17, CTL-20: in every launch anew, `limits` being those of the log.
fn kill_again_and_again(test: &str, limits: Limits) {
    if let Some(path) = env::var_os(CHILD) {
        append_and_tell(Path::new(&path), limits);
        return;
    }
    let (_directory, path) = place();
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    for round in 0..12 {
        let mut command = child(test, &path);
        let mut writer = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = writer.stderr.take().unwrap();
        let mut text = vec![0; 300 << round];
        said.read_exact(&mut text).unwrap();
        writer.kill().unwrap();
        said.read_to_end(&mut text).unwrap();
        let status = writer.wait().unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(status.signal(), Some(9), "{text}");
        for (seq, frame) in by_number(&text) {
            let before = seen.insert(seq, frame.to_owned());
            assert_eq!(before, None, "a number that was used again");
        }

        let hub = try_open(&path, limits).unwrap();
        let (first, text) = held(&hub);
        let held = by_number(&text);
        let (last, _) = seen.last_key_value().unwrap();
        let next = append(&hub, 1, "{}");
        assert!(next > *last, "{next} after {last}");
        assert_eq!(held.keys().copied().collect::<Vec<_>>(), (first..next).collect::<Vec<_>>());
        assert!(first == 1 || held.len() == limits.events, "{} are held", held.len());
        for (seq, frame) in seen.range(first..) {
            assert_eq!(held[seq], frame);
        }
        seen.insert(next, frame(next, 1, "{}"));
    }
}

#[test]
fn what_a_reader_saw_is_there_after_a_kill() {
    let limits = Limits { events: 1_000_000, bytes: 1 << 30 };
    kill_again_and_again("what_a_reader_saw_is_there_after_a_kill", limits);
}

/// A log so short that the file is replaced again and again.
#[test]
fn a_kill_while_the_file_is_replaced_takes_nothing() {
    let limits = Limits { events: 10, bytes: 10_000 };
    kill_again_and_again("a_kill_while_the_file_is_replaced_takes_nothing", limits);
}
