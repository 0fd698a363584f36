//! A subject is held, failed and ended at exact system calls, and goes on when it is let go.

use std::path::PathBuf;

use local_daemon_harness::arena::Arena;
use local_daemon_harness::process::{Proc, Signal, Subject};
use local_daemon_harness::strace::{self, LINK, Point, RENAME, Strace, UNLINK};
use local_daemon_harness::wait::ms;

/// A world with a file `old` in it, and a trace of `point`; `None` where this host lets nobody trace.
fn world(point: Point) -> Option<(Arena, PathBuf, Strace)> {
    if let Err(why) = strace::usable() {
        eprintln!("not tried: {why}");
        return None;
    }
    let arena = Arena::new().unwrap();
    let directory = arena.make_state_dir().unwrap().to_owned();
    std::fs::write(directory.join("old"), "content").unwrap();
    let strace = Strace::new(point, &arena.path().join("strace")).unwrap();
    Some((arena, directory, strace))
}

fn moves(arena: &Arena, strace: &Strace) -> Subject {
    let mut argv = strace.prefix();
    argv.extend(["mv", "-T", "old", "new"].map(str::to_owned));
    arena.launch("subject", argv).cwd(arena.state_dir()).start().unwrap()
}

#[test]
fn held_before_a_call_and_released() {
    let Some((arena, directory, strace)) = world(Point::at([RENAME]).held_before()) else {
        return;
    };
    let subject = moves(&arena, &strace);
    let call = strace.wait_held(&subject, ms(5_000)).expect("it is held");
    assert_eq!(call.result, None);
    assert!(call.files.iter().any(|file| file.ends_with("old")), "{call:?}");
    assert!(directory.join("old").exists() && subject.is_running());
    // The process that was launched is the subject, not strace.
    assert_eq!(Proc::of(subject.pid()).unwrap().comm, "mv");
    strace.release(&subject).unwrap();
    assert_eq!(subject.wait_exit(ms(5_000)).unwrap().code, Some(0));
    assert!(!directory.join("old").exists() && directory.join("new").exists());
    drop(subject);
    assert!(arena.leaks().is_empty());
}

#[test]
fn held_after_a_call_its_effect_is_there() {
    let Some((arena, directory, strace)) = world(Point::at([RENAME]).held_after()) else {
        return;
    };
    let subject = moves(&arena, &strace);
    let call = strace.wait_held(&subject, ms(5_000)).expect("it is held");
    assert!(call.result.is_some_and(|result| result.starts_with('0')));
    assert!(directory.join("new").exists() && subject.is_running());
    // Let go and ended at once: nothing stays behind.
    drop(strace);
    drop(subject);
    assert!(arena.leaks().is_empty());
}

#[test]
fn a_call_fails_with_the_given_error_and_has_no_effect() {
    let Some((arena, directory, strace)) = world(Point::at([RENAME, LINK]).failing("EIO")) else {
        return;
    };
    let subject = moves(&arena, &strace);
    assert_eq!(subject.wait_exit(ms(5_000)).unwrap().code, Some(1));
    let calls = strace.calls();
    assert!(calls.iter().any(local_daemon_harness::strace::Call::was_failed), "{calls:?}");
    assert!(directory.join("old").exists() && !directory.join("new").exists());
}

#[test]
fn ended_at_the_second_call() {
    let Some((arena, directory, strace)) = world(Point::at([UNLINK]).nth(2).killed()) else {
        return;
    };
    for name in ["a", "b", "c"] {
        std::fs::write(directory.join(name), "").unwrap();
    }
    let mut argv = strace.prefix();
    argv.extend(["rm", "a", "b", "c"].map(str::to_owned));
    let subject = arena.launch("subject", argv).cwd(&directory).start().unwrap();
    assert_eq!(subject.wait_exit(ms(5_000)).unwrap().signal, Some(9));
    assert!(!directory.join("a").exists() && directory.join("c").exists());
    assert_eq!(strace.calls().len(), 2);
}

#[test]
fn a_running_subject_is_held_with_all_its_processes_and_stopped_there() {
    let Some((arena, directory, mut strace)) = world(Point::at([UNLINK]).held_after()) else {
        return;
    };
    let script = r"trap 'rm old; touch seen' TERM; echo up; while :; do sleep 0.01; done";
    let subject = arena.launch("subject", ["sh", "-c", script]).cwd(&directory).start().unwrap();
    subject.wait_output(ms(5_000), |output| !output.stdout().is_empty()).unwrap();
    strace.attach(&subject, ms(5_000)).unwrap();
    subject.signal(Signal::TERM).unwrap();
    strace.wait_held(&subject, ms(5_000)).expect("its child is held");
    strace.release_stopped(&subject).unwrap();
    assert!(!directory.join("old").exists() && !directory.join("seen").exists());
    subject.cont().unwrap();
    local_daemon_harness::wait::until(ms(5_000), || directory.join("seen").exists().then_some(()))
        .expect("it goes on");
}
