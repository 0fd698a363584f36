//! `Claim` and `Connect` driven by hand. That the rules hold whatever the world answers is for `fuzz/` to show.

use std::time::Duration;

use local_daemon_proto::Protocol;
use local_daemon_proto::claim::{self, Claim, ClaimEffect, ClaimEvent, Reason};
use local_daemon_proto::connect::{
    self, Budget, Child, Connect, ConnectEffect, ConnectEvent, ConnectOutcome, Policy,
};
use local_daemon_proto::handshake::{self, Handshake, Probe, State};
use local_daemon_proto::registration::{ClaimId, RecordRead, Registration, World};

fn id(n: u8) -> ClaimId {
    ClaimId::from_bits(u128::from(n))
}

fn protocol(n: u8) -> Protocol {
    format!("acme/{n}").parse().unwrap()
}

fn record(n: u8) -> Registration {
    Registration {
        id: id(n),
        version: String::new(),
        url: format!("http://127.0.0.1:{}", 1000 + u16::from(n)).parse().unwrap(),
        pid: std::num::NonZeroU32::MIN,
        protocol: None,
        socket: None,
        started_at: None,
        world: World::default(),
    }
}

fn proven(n: u8, speaks: u8, state: State) -> Probe {
    Probe::Proven(Handshake {
        protocol: protocol(speaks),
        id: id(n),
        pid: std::num::NonZeroU32::MIN,
        version: String::new(),
        state,
        capabilities: Vec::new(),
    })
}

/// Feeds `steps` to a claim: what it must want, and what comes of it.
fn walk_claim(claim: &mut Claim, steps: &[(ClaimEffect, ClaimEvent)]) {
    for (effect, outcome) in steps {
        assert_eq!(claim.effect().as_ref(), Some(effect));
        claim.handle(outcome.clone());
    }
}

fn serving(yields: bool) -> Claim {
    use ClaimEffect::*;
    use ClaimEvent::*;
    let mut claim = Claim::new(id(1), protocol(1), yields);
    walk_claim(
        &mut claim,
        &[
            (Listen, Done),
            (ReadCredential, Missing),
            (CreateCredential, Done),
            (ReadCredential, Done),
        ],
    );
    walk_claim(&mut claim, &[(WriteTemporary, Done)]);
    if yields {
        walk_claim(&mut claim, &[(ReadRecord, Record(RecordRead::Missing))]);
    }
    walk_claim(&mut claim, &[(Publish, Done)]);
    assert!(claim.is_serving());
    claim
}

fn wait() -> ClaimEffect {
    ClaimEffect::Await(claim::REREAD_INTERVAL)
}

#[test]
fn a_daemon_that_is_to_yield_leaves_the_record_of_one_that_cannot_be_asked() {
    use ClaimEffect::*;
    use ClaimEvent::*;
    let other = || Record(RecordRead::Record(record(2)));
    for (replaces, reads) in [(false, true), (true, true), (false, false)] {
        let mut claim = Claim::new(id(1), protocol(1), true).replaces(replaces);
        walk_claim(&mut claim, &[(Listen, Done), (ReadCredential, Done), (WriteTemporary, Done)]);
        walk_claim(
            &mut claim,
            &[
                (ReadRecord, other()),
                (Probe(record(2)), Probed(handshake::Probe::Unreachable)),
            ],
        );
        // CONV-34: what was published meanwhile is another question.
        let again = if reads { other() } else { Record(RecordRead::Record(record(3))) };
        walk_claim(&mut claim, &[(ReadRecord, again)]);
        if replaces {
            assert_eq!(claim.effect(), Some(Publish));
            continue;
        }
        if !reads {
            walk_claim(&mut claim, &[(Probe(record(3)), Probed(handshake::Probe::Unreachable))]);
        }
        walk_claim(&mut claim, &[(DropTemporary, Done), (Close, Done)]);
        assert_eq!((claim.effect(), claim.reason()), (None, Some(Reason::Unreachable)));
    }
}

#[test]
fn a_client_that_cannot_ask_starts_nothing_unless_it_replaces() {
    use ConnectEffect::*;
    let seen = || ConnectEvent::Record(RecordRead::Record(record(1)));
    let blind = || ConnectEvent::Probed(handshake::Probe::Unreachable);
    for replace in [false, true] {
        let mut connect = Connect::new(Policy { protocol: protocol(1), spawn: true, replace });
        walk_connect(
            &mut connect,
            &[
                (ReadRecord, seen()),
                (Probe(record(1)), blind()),
                (ReadRecord, seen()),
            ],
        );
        if replace {
            walk_connect(&mut connect, &[(Lock, ConnectEvent::Locked(true)), (ReadRecord, seen())]);
            walk_connect(&mut connect, &[(Probe(record(1)), blind())]);
            assert_eq!(connect.effect(), Some(Spawn));
        } else {
            assert_eq!(connect.outcome(), Some(&ConnectOutcome::Unreachable));
        }
    }
    let mut connect = Connect::new(Policy { protocol: protocol(1), spawn: true, replace: false });
    walk_connect(
        &mut connect,
        &[
            (ReadRecord, ConnectEvent::Record(RecordRead::Missing)),
            (Lock, ConnectEvent::Locked(false)),
        ],
    );
    walk_connect(
        &mut connect,
        &[
            (ReadRecord, ConnectEvent::Record(RecordRead::Missing)),
            (Spawn, ConnectEvent::Unreachable),
        ],
    );
    assert_eq!(connect.outcome(), Some(&ConnectOutcome::Unreachable));
}

#[test]
fn a_record_of_another_world_is_told_by_what_both_sides_know() {
    use local_daemon_proto::registration::Place;
    let world = |parts: [&str; 3]| {
        let [host, boot, netns] =
            parts.map(|part| Some(part).filter(|part| !part.is_empty()).map(Into::into));
        World { host, boot, netns, pidns: None }
    };
    let here = world(["h", "b", "n"]);
    for (theirs, place) in [
        (["h", "b", "n"], Place::Here),
        (["", "", ""], Place::Here),
        (["x", "b", "n"], Place::OtherHost),
        (["x", "", ""], Place::OtherHost),
        (["h", "x", "n"], Place::EarlierBoot),
        (["h", "x", "x"], Place::EarlierBoot),
        (["h", "b", "x"], Place::OtherNetwork),
        (["", "b", "x"], Place::OtherNetwork),
        (["", "", "x"], Place::OtherNetwork),
        // Another boot of perhaps another host says nothing.
        (["", "x", "x"], Place::Here),
    ] {
        assert_eq!(world(theirs).seen_from(&here), place, "{theirs:?}");
        assert_eq!(world(theirs).seen_from(&World::default()), Place::Here, "{theirs:?}");
    }
    let pids = |pidns: &str| World { pidns: Some(pidns.into()), ..World::default() };
    assert!(pids("p").has_other_pids(&pids("q")));
    assert!(!pids("p").has_other_pids(&pids("p")) && !pids("p").has_other_pids(&World::default()));
}

#[test]
fn a_graceful_stop_takes_verifies_and_unlinks_its_own_record() {
    use ClaimEffect::*;
    use ClaimEvent::*;
    let mut claim = serving(false);
    assert_eq!(claim.state(&RecordRead::Record(record(1))), State::Ready);
    claim.stop();
    assert_eq!(claim.state(&RecordRead::Record(record(1))), State::Draining, "before anything else");
    let own = || Record(RecordRead::Record(record(1)));
    walk_claim(
        &mut claim,
        &[
            (wait(), Done),
            (ReadRecord, own()),
            (Take, Done),
            (ReadTaken, own()),
        ],
    );
    walk_claim(&mut claim, &[(UnlinkOwn, Done), (Drain, Done), (Close, Done)]);
    assert_eq!((claim.effect(), claim.reason()), (None, Some(Reason::Stopped)));
}

#[test]
fn a_record_that_turned_out_to_be_a_successors_is_left_where_it_was_taken_to() {
    use ClaimEffect::*;
    use ClaimEvent::*;
    let mut claim = serving(false);
    claim.stop();
    walk_claim(
        &mut claim,
        &[
            (wait(), Done),
            (ReadRecord, Record(RecordRead::Record(record(1)))),
            (Take, Done),
        ],
    );
    walk_claim(
        &mut claim,
        &[
            (ReadTaken, Record(RecordRead::Record(record(2)))),
            (Drain, Done),
            (Close, Done),
        ],
    );
    assert_eq!(claim.effect(), None);
}

#[test]
fn a_missing_record_is_reclaimed_where_somebody_took_it_and_a_stand_down_where_nobody_did() {
    use ClaimEffect::*;
    use ClaimEvent::*;
    let mut claim = serving(false);
    walk_claim(
        &mut claim,
        &[
            (wait(), Done),
            (ReadRecord, Record(RecordRead::Missing)),
            (ListTaken, Taken(true)),
        ],
    );
    walk_claim(
        &mut claim,
        &[
            (WriteTemporary, Done),
            (UnlinkTaken, Done),
            (Publish, Done),
            (wait(), Done),
        ],
    );
    walk_claim(
        &mut claim,
        &[
            (ReadRecord, Record(RecordRead::Missing)),
            (ListTaken, Taken(false)),
            (Drain, Done),
        ],
    );
    assert_eq!(claim.reason(), Some(Reason::RecordRemoved));
}

#[test]
fn a_reclaim_that_fails_leaves_no_temporary_file() {
    use ClaimEffect::*;
    use ClaimEvent::*;
    let mut claim = serving(false);
    walk_claim(
        &mut claim,
        &[
            (wait(), Done),
            (ReadRecord, Record(RecordRead::Missing)),
            (ListTaken, Taken(true)),
            (WriteTemporary, Done),
            (UnlinkTaken, Done),
            (Publish, Failed),
            (DropTemporary, Done),
            (wait(), Done),
            (ReadRecord, Record(RecordRead::Record(record(2)))),
            (Drain, Done),
        ],
    );
}

#[test]
fn an_unparsable_record_is_read_again_five_times_and_an_unreadable_one_for_ever() {
    use ClaimEffect::*;
    use ClaimEvent::*;
    let mut claim = serving(false);
    for _ in 0..20 {
        walk_claim(&mut claim, &[(wait(), Done), (ReadRecord, Record(RecordRead::Unreadable))]);
    }
    assert_eq!(claim.state(&RecordRead::Unreadable), State::Draining);
    walk_claim(&mut claim, &[(wait(), Done)]);
    for _ in 0..claim::MAX_PARSE_RETRIES {
        walk_claim(
            &mut claim,
            &[
                (ReadRecord, Record(RecordRead::Malformed(None))),
                (Pause(claim::PARSE_RETRY_INTERVAL), Done),
            ],
        );
    }
    walk_claim(
        &mut claim,
        &[
            (ReadRecord, Record(RecordRead::Malformed(None))),
            (Drain, Done),
            (Close, Done),
        ],
    );
    assert_eq!(claim.reason(), Some(Reason::Displaced));
}

#[test]
fn it_yields_only_to_a_ready_compatible_daemon_of_the_records_id() {
    use ClaimEvent::*;
    let start = || {
        let mut claim = Claim::new(id(1), protocol(1), true);
        walk_claim(&mut claim, &[(ClaimEffect::Listen, Done), (ClaimEffect::ReadCredential, Done)]);
        walk_claim(&mut claim, &[(ClaimEffect::WriteTemporary, Done)]);
        walk_claim(&mut claim, &[(ClaimEffect::ReadRecord, Record(RecordRead::Record(record(2))))]);
        claim
    };
    let mut claim = start();
    claim.handle(Probed(proven(2, 1, State::Ready)));
    walk_claim(&mut claim, &[(ClaimEffect::DropTemporary, Done), (ClaimEffect::Close, Done)]);
    assert_eq!(claim.reason(), Some(Reason::Yielded));
    let others = [
        proven(2, 1, State::Draining),
        proven(2, 2, State::Ready),
        proven(3, 1, State::Ready),
        Probe::Refused,
        Probe::TimedOut,
        Probe::Foreign,
        Probe::OtherSpec,
        Probe::NoCredential,
    ];
    for other in others {
        let mut claim = start();
        claim.handle(Probed(other.clone()));
        let unchanged = (ClaimEffect::ReadRecord, Record(RecordRead::Record(record(2))));
        walk_claim(&mut claim, &[unchanged]);
        assert_eq!(claim.effect(), Some(ClaimEffect::Publish), "{other:?}");
    }
}

#[test]
fn it_yields_to_who_published_during_the_probe_and_asks_no_third() {
    use ClaimEvent::*;
    let start = || {
        let mut claim = Claim::new(id(1), protocol(1), true);
        walk_claim(
            &mut claim,
            &[
                (ClaimEffect::Listen, Done),
                (ClaimEffect::ReadCredential, Done),
                (ClaimEffect::WriteTemporary, Done),
                (ClaimEffect::ReadRecord, Record(RecordRead::Record(record(2)))),
                (ClaimEffect::Probe(record(2)), Probed(Probe::Foreign)),
                (ClaimEffect::ReadRecord, Record(RecordRead::Record(record(3)))),
            ],
        );
        assert_eq!(claim.effect(), Some(ClaimEffect::Probe(record(3))));
        claim
    };
    let mut claim = start();
    claim.handle(Probed(proven(3, 1, State::Ready)));
    assert_eq!(claim.reason(), Some(Reason::Yielded));
    let mut claim = start();
    claim.handle(Probed(Probe::TimedOut));
    assert_eq!(claim.effect(), Some(ClaimEffect::Publish));
}

/// Feeds `steps` to a connect.
fn walk_connect(connect: &mut Connect, steps: &[(ConnectEffect, ConnectEvent)]) {
    for (effect, observed) in steps {
        assert_eq!(connect.effect().as_ref(), Some(effect));
        connect.handle(observed.clone());
    }
}

fn connecting() -> Connect {
    Connect::new(Policy { protocol: protocol(1), spawn: true, replace: false })
}

#[test]
fn a_cold_client_spawns_once_and_holds_the_lock_until_its_child_is_ready() {
    use ConnectEffect::*;
    let mut connect = connecting();
    let missing = || ConnectEvent::Record(RecordRead::Missing);
    walk_connect(
        &mut connect,
        &[
            (ReadRecord, missing()),
            (Lock, ConnectEvent::Locked(true)),
            (ReadRecord, missing()),
        ],
    );
    walk_connect(&mut connect, &[(Spawn, ConnectEvent::Spawned)]);
    let soon = Duration::from_millis(3);
    walk_connect(
        &mut connect,
        &[(Await(connect::MIN_POLL_INTERVAL), ConnectEvent::Woken(Child::Done, soon))],
    );
    walk_connect(&mut connect, &[(ReadRecord, ConnectEvent::Record(RecordRead::Record(record(2))))]);
    walk_connect(&mut connect, &[(Probe(record(2)), ConnectEvent::Probed(proven(2, 1, State::Ready)))]);
    walk_connect(&mut connect, &[(Unlock, ConnectEvent::Unlocked)]);
    assert!(matches!(connect.outcome(), Some(ConnectOutcome::Ready(..))));
}

#[test]
fn a_record_that_was_stale_before_the_spawn_is_not_waited_on() {
    use ConnectEffect::*;
    let mut connect = connecting();
    let stale = || ConnectEvent::Record(RecordRead::Record(record(2)));
    let refused = || ConnectEvent::Probed(handshake::Probe::Refused);
    walk_connect(
        &mut connect,
        &[
            (ReadRecord, stale()),
            (Probe(record(2)), refused()),
            (ReadRecord, stale()),
        ],
    );
    walk_connect(
        &mut connect,
        &[
            (Lock, ConnectEvent::Locked(false)),
            (ReadRecord, stale()),
            (Probe(record(2)), refused()),
        ],
    );
    walk_connect(&mut connect, &[(Spawn, ConnectEvent::Spawned)]);
    let mut poll = connect::MIN_POLL_INTERVAL;
    for _ in 0..6 {
        walk_connect(
            &mut connect,
            &[
                (Await(poll), ConnectEvent::Woken(Child::Silent, poll)),
                (ReadRecord, stale()),
            ],
        );
        poll = (poll * 2).min(connect::MAX_POLL_INTERVAL);
    }
    connect.expire();
    assert_eq!(connect.outcome(), Some(&ConnectOutcome::SpawnFailed));
}

#[test]
fn an_older_client_never_displaces_a_newer_daemon_and_a_newer_one_does() {
    use ConnectEffect::*;
    let there = |speaks| {
        [
            (ReadRecord, ConnectEvent::Record(RecordRead::Record(record(2)))),
            (Probe(record(2)), ConnectEvent::Probed(proven(2, speaks, State::Ready))),
            (ReadRecord, ConnectEvent::Record(RecordRead::Record(record(2)))),
        ]
    };
    let mut older = connecting();
    walk_connect(&mut older, &there(2));
    assert_eq!(older.outcome(), Some(&ConnectOutcome::Incompatible(Some(protocol(2)))));
    let mut newer = Connect::new(Policy { protocol: protocol(3), spawn: true, replace: false });
    walk_connect(&mut newer, &there(2));
    assert_eq!(newer.effect(), Some(Lock));
}

#[test]
fn a_draining_daemon_is_waited_for_and_its_absence_leads_to_a_spawn() {
    use ConnectEffect::*;
    let mut connect = connecting();
    let there = || ConnectEvent::Record(RecordRead::Record(record(2)));
    let draining = || ConnectEvent::Probed(proven(2, 1, State::Draining));
    walk_connect(&mut connect, &[(ReadRecord, there()), (Probe(record(2)), draining())]);
    let silent = |poll| ConnectEvent::Woken(Child::Silent, poll);
    let first = connect::MIN_POLL_INTERVAL;
    walk_connect(
        &mut connect,
        &[
            (Await(first), silent(first)),
            (ReadRecord, there()),
            (Probe(record(2)), draining()),
        ],
    );
    walk_connect(
        &mut connect,
        &[
            (Await(first * 2), silent(first * 2)),
            (ReadRecord, ConnectEvent::Record(RecordRead::Missing)),
        ],
    );
    assert_eq!(connect.effect(), Some(Lock));
}

#[test]
fn the_restart_budget_is_three_a_minute() {
    let mut budget = Budget::default();
    for at in [0, 20_000, 40_000] {
        assert_eq!(budget.exhausted(at), None);
        budget.failed(at, "the port is taken");
    }
    assert_eq!(budget.exhausted(59_999), Some(("the port is taken", Duration::from_millis(1))));
    assert_eq!(budget.exhausted(60_000), None, "the first is a minute old");
    budget.failed(60_000, "again");
    assert_eq!(budget.exhausted(60_001), Some(("again", Duration::from_millis(19_999))));
}
