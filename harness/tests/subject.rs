//! The degenerate subjects do what they are named for, and no more.
#![allow(clippy::unwrap_used)]

use local_daemon_harness::arena::Arena;
use local_daemon_harness::files::Snapshot;
use local_daemon_harness::http::{Request, exchange};
use local_daemon_harness::process::Subject;
use local_daemon_harness::record::{CREDENTIAL, RECORD, Record, parse_credential};
use local_daemon_harness::wait::{ms, until};
use std::fs;

fn start(arena: &Arena, arguments: &[&str]) -> Subject {
    let argv = std::iter::once(env!("CARGO_BIN_EXE_daemonspec-subject")).chain(arguments.iter().copied());
    arena.launch("subject", argv).start().unwrap()
}

#[test]
fn one_exits_and_one_hangs() {
    let arena = Arena::new().unwrap();
    assert_eq!(start(&arena, &["exit"]).wait_exit(ms(5_000)).unwrap().code, Some(0));
    assert_eq!(start(&arena, &["exit", "3"]).wait_exit(ms(5_000)).unwrap().code, Some(3));
    assert_eq!(start(&arena, &["hang"]).wait_exit(ms(50)), None);
    assert_eq!(start(&arena, &["answer"]).wait_exit(ms(5_000)).unwrap().code, Some(2));
}

#[test]
fn two_answer_everything_alike_behind_files_that_look_right() {
    for status in ["200", "401"] {
        let arena = Arena::new().unwrap();
        let directory = arena.state_dir();
        let _subject = start(&arena, &["answer", status, "--state-dir", directory.to_str().unwrap()]);
        let published = || fs::read(directory.join(RECORD)).ok();
        let record = until(ms(5_000), published).expect("it publishes");
        let record = Record::parse(&record).unwrap();
        assert!(parse_credential(&fs::read(directory.join(CREDENTIAL)).unwrap()).is_some());
        let snapshot = Snapshot::of(directory).unwrap();
        assert!(snapshot.0.values().all(|entry| !entry.facts.is_loose()), "{snapshot:?}");
        for path in ["/.well-known/local-daemon", "/anything"] {
            let request = Request::get(record.url.authority(), path).bytes();
            let answer = exchange(record.url.addresses()[0], &request, ms(5_000)).unwrap();
            assert_eq!(answer.status.to_string(), status);
        }
    }
}
