//! What threads share inside a daemon, under every interleaving that the memory model allows. The files are the ones
//! that the crate compiles, with loom's atomics in place of the standard library's.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
}

#[path = "../src/daemon/admission.rs"]
mod admission;

use admission::Admission;
use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A drain waits for what was let in before it, sees all of its work, and lets nobody in afterwards.
#[test]
fn a_drain_ends_when_the_last_that_was_let_in_has_left() {
    loom::model(|| {
        let admission = Arc::new(Admission::new());
        let work = Arc::new(AtomicUsize::new(0));
        let request = thread::spawn({
            let (admission, work) = (admission.clone(), work.clone());
            move || {
                let admitted = admission.enter();
                if admitted {
                    work.store(1, Ordering::Relaxed);
                }
                (admitted, admitted && admission.leave())
            }
        });
        admission.close();
        let drained = admission.open() == 0;
        assert!(!admission.enter(), "a request was let in after the close");
        let seen = work.load(Ordering::Relaxed);
        let (admitted, told) = request.join().unwrap();
        assert!(
            drained || told,
            "a drain that has to wait is told when it is over"
        );
        assert!(
            !drained || !admitted || seen == 1,
            "the drain ended before the work that it waited for"
        );
    });
}

/// Of two that leave a closed daemon, one is the last.
#[test]
fn one_of_two_is_the_last_to_leave() {
    loom::model(|| {
        let admission = Arc::new(Admission::new());
        assert!(admission.enter() && admission.enter());
        admission.close();
        let other = thread::spawn({
            let admission = admission.clone();
            move || admission.leave()
        });
        assert_ne!(admission.leave(), other.join().unwrap());
        assert_eq!(admission.open(), 0);
    });
}

/// An idle exit and a request that arrives at that moment: one of them wins, never both.
#[test]
fn an_idle_exit_never_takes_a_request_with_it() {
    loom::model(|| {
        let admission = Arc::new(Admission::new());
        let request = thread::spawn({
            let admission = admission.clone();
            move || admission.enter()
        });
        let exits = admission.close_if_idle(0);
        let admitted = request.join().unwrap();
        assert_ne!(exits, admitted, "exactly one of them has its way");
        assert_eq!(admission.open(), usize::from(admitted));
    });
}

/// Two conditional stops, each from within a request of its own: whoever stops is alone.
#[test]
fn a_stop_if_idle_is_alone() {
    loom::model(|| {
        let admission = Arc::new(Admission::new());
        let ask = |admission: &Admission| {
            let admitted = admission.enter();
            (admitted, admitted && admission.close_if_idle(1))
        };
        let other = thread::spawn({
            let admission = admission.clone();
            move || ask(&admission)
        });
        let (one, other) = (ask(&admission), other.join().unwrap());
        assert!(
            !(one.1 && other.0 || other.1 && one.0),
            "it stopped while the other was let in"
        );
        assert!(one.1 || other.1 || one.0 && other.0);
    });
}
