//! What happens to files is seen: loose modes, torn writes, replaced and deleted names.

use local_daemon_harness::arena::Arena;
use local_daemon_harness::files::{
    Difference, EntryKind, Facts, FileEventKind, HostileReader, Sight, Snapshot, Watch,
};
use local_daemon_harness::process::{Killer, Signal};
use local_daemon_harness::record::{RECORD, Record, Url, replace, write_new};
use local_daemon_harness::wait::{ms, until};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::{Arc, OnceLock};

#[test]
fn a_file_created_loose_is_seen_and_a_private_one_is_not_accused() {
    let arena = Arena::new().unwrap();
    let directory = arena.make_state_dir().unwrap();
    let watch = Watch::on(directory).unwrap();
    write_new(&directory.join("private"), b"x", 0o600).unwrap();
    write_new(&directory.join("loose"), b"x", 0o644).unwrap();
    let closed = watch.wait_event(ms(5_000), FileEventKind::ClosedWrite, "loose").expect("it is closed");
    assert_eq!(closed.facts.unwrap().mode, 0o644);
    let loose = watch.loose();
    assert!(!loose.is_empty() && loose.iter().all(|event| event.name == "loose"), "{loose:?}");
}

#[test]
fn a_rename_and_an_unlink_are_seen_in_order() {
    let arena = Arena::new().unwrap();
    let directory = arena.make_state_dir().unwrap();
    let watch = Watch::noted(directory, arena.transcript()).unwrap();
    replace(&directory.join("record"), b"{}", 0o600).unwrap();
    fs::remove_file(directory.join("record")).unwrap();
    watch.wait_event(ms(5_000), FileEventKind::Deleted, "record").expect("it is deleted");
    let events = watch.events();
    let at = |kind, name: Option<&str>| {
        events
            .iter()
            .position(|event| event.kind == kind && name.is_none_or(|name| event.name == name))
            .unwrap()
    };
    let (from, to) = (at(FileEventKind::MovedFrom, None), at(FileEventKind::MovedTo, Some("record")));
    assert!(at(FileEventKind::Created, None) < from && from < to);
    assert!(to < at(FileEventKind::Deleted, Some("record")));
    assert_eq!(events[from].cookie, events[to].cookie);
    assert!(arena.transcript().events().iter().any(|event| event.detail.contains("MovedTo record")));
}

#[test]
fn the_end_of_the_directory_itself_is_seen() {
    let arena = Arena::new().unwrap();
    let directory = arena.make_state_dir().unwrap();
    let watch = Watch::on(directory).unwrap();
    fs::remove_dir(directory).unwrap();
    assert!(watch.wait_event(ms(5_000), FileEventKind::SelfDeleted, "").is_some());
}

#[test]
fn opens_are_seen_on_request() {
    let arena = Arena::new().unwrap();
    let directory = arena.make_state_dir().unwrap();
    let path = directory.join("credential");
    write_new(&path, b"x", 0o600).unwrap();
    let watch = Watch::with_opens(directory).unwrap();
    fs::read(path).unwrap();
    assert!(watch.wait_event(ms(5_000), FileEventKind::Opened, "credential").is_some());
}

#[test]
fn a_reaction_strikes_in_the_middle_of_a_publish() {
    let arena = Arena::new().unwrap();
    let directory = arena.make_state_dir().unwrap();
    let aim = Arc::new(OnceLock::<Killer>::new());
    let trigger = Arc::clone(&aim);
    let watch = Watch::each(directory, move |event| {
        if event.name == "temporary" {
            trigger.wait().kill();
        }
    });
    let watch = watch.unwrap();
    let script = "touch temporary && sleep 600 && mv temporary record";
    let subject = arena.launch("subject", ["sh", "-c", script]).cwd(directory).start().unwrap();
    aim.set(subject.killer()).unwrap();
    assert_eq!(subject.wait_exit(ms(5_000)).unwrap().signal, Some(Signal::KILL.as_raw()));
    assert!(watch.wait_event(ms(5_000), FileEventKind::Created, "temporary").is_some());
    assert!(!directory.join("record").exists());
}

fn classify(bytes: &[u8]) -> Sight {
    match Record::parse(bytes) {
        Ok(record) => Sight::Whole(record.id),
        Err(fault) => Sight::Broken(fault.to_string()),
    }
}

fn record() -> Record {
    Record::new(Url::parse("http://127.0.0.1:8080").unwrap(), 1)
}

#[test]
fn a_hostile_reader_sees_a_write_in_place() {
    let arena = Arena::new().unwrap();
    let path = arena.make_state_dir().unwrap().join(RECORD);
    let reader = HostileReader::start(&path, 2, classify);
    let torn = until(ms(20_000), || {
        for _ in 0..100 {
            fs::write(&path, record().to_json()).unwrap();
        }
        (reader.report().broken > 0).then_some(())
    });
    let report = reader.stop();
    assert!(torn.is_some(), "{report:?}");
    assert_eq!(report.broken_reads.len() as u64, report.broken.min(64));
    assert!(report.loose > 0, "the test wrote with the umask's mode");
}

#[test]
fn a_hostile_reader_finds_nothing_wrong_with_atomic_publishes() {
    let arena = Arena::new().unwrap();
    let directory = arena.make_state_dir().unwrap();
    let reader = HostileReader::start(&directory.join(RECORD), 2, classify);
    // By the first reader, the one that keeps what it sees in order.
    let absent = || (!reader.report().changes.is_empty()).then_some(());
    assert_eq!(until(ms(5_000), absent), Some(()), "absence is seen before the first publish");
    let mut last = String::new();
    for _ in 0..100 {
        let record = record();
        record.publish(directory).unwrap();
        last = record.id;
    }
    let seen = || reader.report().whole.contains_key(&last).then_some(());
    assert_eq!(until(ms(5_000), seen), Some(()));
    let report = reader.stop();
    assert_eq!((report.broken, report.loose, report.errors.len()), (0, 0, 0), "{report:?}");
    assert_eq!(report.reads, report.absent + report.whole.values().sum::<u64>());
    assert_eq!(report.changes.first().unwrap().1, None);
}

#[test]
fn a_snapshot_tells_what_changed_and_what_did_not() {
    let arena = Arena::new().unwrap();
    let directory = arena.make_state_dir().unwrap();
    for name in ["same", "gone", "mode", "bytes", "replaced"] {
        write_new(&directory.join(name), b"one", 0o600).unwrap();
    }
    let before = Snapshot::of(directory).unwrap();
    assert_eq!(before.diff(&Snapshot::of(directory).unwrap()), []);
    fs::remove_file(directory.join("gone")).unwrap();
    fs::set_permissions(directory.join("mode"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(directory.join("bytes"), b"two").unwrap();
    replace(&directory.join("replaced"), b"one", 0o600).unwrap();
    symlink("same", directory.join("link")).unwrap();
    let differences = before.diff(&Snapshot::of(directory).unwrap());
    let mut told: Vec<String> = differences
        .iter()
        .map(|difference| match difference {
            Difference::Added(name, entry) => format!("+{} {:?}", name.display(), entry.facts.kind),
            Difference::Removed(name, _) => format!("-{}", name.display()),
            Difference::Changed(name, ..) => format!("~{}", name.display()),
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            &format!("+link {:?}", EntryKind::Link),
            "-gone",
            "~bytes",
            "~mode",
            "~replaced"
        ]
    );
}

#[test]
fn a_links_own_mode_accuses_nobody() {
    let arena = Arena::new().unwrap();
    symlink("/etc/passwd", arena.path().join("link")).unwrap();
    let facts = Facts::of(&arena.path().join("link")).unwrap();
    assert_eq!((facts.kind, facts.is_loose()), (EntryKind::Link, false));
}

#[test]
fn what_happened_before_the_question_is_in_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let watch = Watch::on(dir.path()).unwrap();
    for number in 1..=300 {
        fs::write(dir.path().join("a"), b"").unwrap();
        fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        let events = watch.events();
        let moved = events.iter().filter(|event| event.kind == FileEventKind::MovedTo);
        assert_eq!(moved.count(), number);
    }
}
