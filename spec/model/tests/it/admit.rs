//! Hand-made traces: what the machines can have done, and what they cannot.

use local_daemon_model::admit::admits;
use local_daemon_model::observed::Observed;
use serde_json::{Value, json};

/// The daemons' ids.
fn id(daemon: u8) -> String {
    format!("{daemon:032x}")
}

/// An event that happened between two instants.
fn between(after: u64, by: u64, mut what: Value) -> Value {
    what["after_us"] = json!(after);
    what["by_us"] = json!(by);
    what
}

fn started(daemon: u8) -> Value {
    json!({"what": "daemon-started", "daemon": daemon, "yields": false})
}

fn put(daemon: u8) -> Value {
    json!({"what": "record-put", "id": id(daemon), "daemon": daemon, "by": "other"})
}

fn taken(by: Option<&str>) -> Value {
    json!({"what": "record-taken", "file": "taken", "by": by})
}

fn untaken() -> Value {
    json!({"what": "taken-removed", "file": "taken", "by": "other"})
}

fn removed(by: Option<&str>) -> Value {
    json!({"what": "record-removed", "by": by})
}

fn asked(daemon: u8) -> Value {
    json!({"what": "asked-to-stop", "daemon": daemon})
}

fn answered(daemon: u8, state: &str) -> Value {
    json!({"what": "answered", "daemon": daemon, "id": id(daemon), "state": state})
}

fn exited(daemon: u8, status: i32) -> Value {
    json!({"what": "exited", "daemon": daemon, "status": status, "signal": null})
}

fn killed(daemon: u8) -> Value {
    json!({"what": "exited", "daemon": daemon, "status": null, "signal": 9})
}

/// Two daemons were started where there was nothing; then these happened, one after the other, or as their instants say.
fn judged(events: Vec<Value>) -> String {
    let mut all = vec![
        between(0, 1, started(1)),
        between(0, 1, started(2)),
        between(0, 0, json!({"what": "watch-began", "record": null})),
    ];
    for (event, at) in events.into_iter().zip((10..).step_by(10)) {
        all.push(if event["by_us"].is_null() { between(at, at + 5, event) } else { event });
    }
    let trace = json!({"trace": 1, "case": "by hand", "events": all, "ends": null});
    let observed = Observed::parse(&trace.to_string()).unwrap();
    admits(&observed).to_string()
}

#[test]
fn what_the_machines_do_is_admitted() {
    let runs = [
        (
            "the last writer wins",
            vec![
                put(1),
                answered(1, "ready"),
                put(2),
                answered(1, "draining"),
                exited(1, 20),
            ],
        ),
        ("a stop takes the record", vec![put(1), asked(1), taken(Some("other")), untaken(), exited(1, 0)]),
        (
            "a wrong one is published again",
            vec![
                put(1),
                asked(1),
                put(2),
                taken(Some("other")),
                exited(1, 0),
                untaken(),
                put(2),
                answered(2, "ready"),
            ],
        ),
        ("an administrator removes it", vec![put(1), removed(Some("suite")), exited(1, 0)]),
        ("who removed it was not seen", vec![put(1), removed(None), exited(1, 0)]),
        ("one is killed, the other is ready", vec![put(1), killed(1), put(2), answered(2, "ready")]),
        ("one cannot start", vec![exited(1, 1), put(2)]),
        (
            "the exit was seen before the change that caused it",
            vec![put(1), between(30, 80, put(2)), between(1, 40, exited(1, 20))],
        ),
        (
            "a handshake that overlaps the displacement",
            vec![
                put(1),
                put(2),
                between(15, 80, answered(1, "ready")),
                exited(1, 20),
            ],
        ),
        (
            "a writer that nobody saw",
            vec![
                put(1),
                json!({"what": "record-touched", "by": "suite"}),
                exited(1, 20),
            ],
        ),
    ];
    for (name, events) in runs {
        assert_eq!(judged(events), "admitted", "{name}");
    }
}

#[test]
fn what_the_machines_never_do_is_refused() {
    let runs = [
        (
            "literal removal",
            vec![
                put(1),
                asked(1),
                put(2),
                removed(Some("other")),
                exited(1, 0),
                exited(2, 0),
            ],
        ),
        ("a displaced daemon says ready", vec![put(1), put(2), answered(1, "ready")]),
        ("ready before it has published", vec![answered(1, "ready"), put(1)]),
        ("the owner says draining", vec![put(1), answered(1, "draining")]),
        ("a displaced daemon exits as if stopped", vec![put(1), put(2), exited(1, 0)]),
        ("a daemon exits unasked", vec![put(1), exited(1, 0)]),
        ("a daemon that nobody displaced exits as displaced", vec![put(1), asked(1), exited(1, 20)]),
        ("the record is taken by nobody who stops", vec![put(1), taken(Some("other"))]),
        ("the record is written again and again", vec![put(1), put(1)]),
        (
            "a daemon stands down through another's clean-up",
            vec![
                put(1),
                asked(1),
                put(2),
                taken(Some("other")),
                exited(1, 0),
                exited(2, 0),
            ],
        ),
        (
            "a stranger's file is unlinked",
            vec![
                put(1),
                asked(1),
                put(2),
                killed(2),
                taken(Some("other")),
                untaken(),
                exited(1, 0),
            ],
        ),
        ("a stopped process publishes", vec![put(1), json!({"what": "paused", "daemon": 2}), put(2)]),
        ("a record is written in place", vec![put(1), json!({"what": "record-touched", "by": "other"})]),
    ];
    let verdicts: Vec<String> =
        runs.into_iter().map(|(name, events)| format!("{name}: {}", judged(events))).collect();
    insta::assert_snapshot!(verdicts.join("\n"));
}

#[test]
fn a_trace_that_ended_early_is_judged_as_far_as_it_goes() {
    let trace = |events: Vec<Value>| {
        json!({"trace": 1, "events": events, "ends": "the state directory was removed"}).to_string()
    };
    let judge = |events| admits(&Observed::parse(&trace(events)).unwrap()).to_string();
    let begun = || vec![between(0, 1, started(1)), between(0, 5, put(1))];
    assert_eq!(judge(begun()), "outside the model: the state directory was removed");
    let worse = begun().into_iter().chain([between(5, 6, exited(1, 0))]).collect();
    assert!(judge(worse).starts_with("refused at event 2"));
}
