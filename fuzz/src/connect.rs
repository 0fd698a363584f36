//! `Connect`, told anything: whatever is observed, what the model's properties demand of one call holds after each step,
//! and its outcome is the one that the specification gives to what it saw last.

use std::time::Duration;

use local_daemon_proto::connect::{
    Child, Connect, ConnectEffect, ConnectEvent, ConnectOutcome, LOCK_TIMEOUT, MAX_POLL_INTERVAL,
    MIN_POLL_INTERVAL, Policy,
};
use local_daemon_proto::handshake::{Probe, State};
use local_daemon_proto::registration::{RecordRead, Registration};

use crate::Seed;
use crate::script::{Choices, id, probes, protocol, record, sights};

/// Everything that a call can observe, in the order of the bytes.
fn observations() -> Vec<ConnectEvent> {
    let mut all = vec![
        ConnectEvent::Locked(true),
        ConnectEvent::Locked(false),
        ConnectEvent::Unlocked,
        ConnectEvent::Spawned,
        ConnectEvent::SpawnFailed,
        ConnectEvent::Unreachable,
        ConnectEvent::SpawnRefused,
    ];
    for child in [Child::Silent, Child::Done, Child::Failed] {
        all.extend([3, 25, 600].map(|ms| ConnectEvent::Woken(child, Duration::from_millis(ms))));
    }
    all.extend(sights().into_iter().map(ConnectEvent::Record));
    all.extend(probes().into_iter().map(ConnectEvent::Probed));
    all
}

/// What has been seen of a call.
struct Watched {
    connect: Connect,
    policy: Policy,
    locked: bool,
    /// How long it has waited since it was given the lock.
    held: Duration,
    asked_for_the_lock: bool,
    tried: u8,
    spawned: bool,
    /// The last look at anything.
    last: Option<Look>,
    drained: bool,
    /// Nothing was started, because nothing could be asked.
    could_not_ask: bool,
    /// Nothing was started, because the child's log could not be trusted.
    refused: bool,
}

#[derive(Clone, Debug)]
enum Look {
    Record(RecordRead),
    Probe(Registration, Probe),
}

impl Watched {
    fn step(&mut self, observed: ConnectEvent) -> bool {
        let Some(effect) = self.connect.effect() else {
            return false;
        };
        self.may_want(&effect);
        let fits = self.note(&effect, &observed);
        let before = self.connect.clone();
        self.connect.handle(observed);
        assert!(fits || self.connect == before, "what does not fit is ignored");
        true
    }

    fn may_want(&self, effect: &ConnectEffect) {
        match effect {
            ConnectEffect::Spawn => {
                assert!(self.policy.spawn && self.tried == 0, "CONN-20: one, and with leave");
                assert!(self.asked_for_the_lock, "CONN-16");
                assert!(!self.is_barred(), "GATE-8, CONN-38: past {:?}", self.last);
            }
            ConnectEffect::Probe(record) => {
                assert!(
                    matches!(&self.last, Some(Look::Record(RecordRead::Record(seen))) if seen == record),
                    "CONN-11"
                );
            }
            ConnectEffect::Await(bound) => {
                assert!((MIN_POLL_INTERVAL..=MAX_POLL_INTERVAL).contains(bound));
                assert!(!self.locked || self.held < LOCK_TIMEOUT, "CONN-19: held for {:?}", self.held);
            }
            ConnectEffect::Lock => assert!(self.policy.spawn && !self.locked && self.tried == 0),
            ConnectEffect::Unlock => {
                assert!(self.locked);
                let is_early = self.connect.outcome().is_none() && self.held < LOCK_TIMEOUT && !self.drained;
                assert!(!is_early || self.is_over(), "CONN-19: held for {:?} alone", self.held);
            }
            ConnectEffect::ReadRecord => {}
        }
    }

    /// Whether nothing but the lock is owed.
    fn is_over(&self) -> bool {
        let mut after = self.connect.clone();
        after.handle(ConnectEvent::Unlocked);
        after.outcome().is_some()
    }

    /// Whether the daemon that was seen last must not be displaced, or could not be asked.
    fn is_barred(&self) -> bool {
        match &self.last {
            Some(Look::Probe(record, Probe::Proven(theirs))) if theirs.id == record.id => {
                theirs.protocol == protocol(2) || theirs.protocol == protocol(3) && !self.policy.replace
            }
            Some(Look::Probe(_, Probe::OtherSpec | Probe::Unreachable)) => !self.policy.replace,
            _ => false,
        }
    }

    /// Whether the observation is one of this effect.
    fn note(&mut self, effect: &ConnectEffect, observed: &ConnectEvent) -> bool {
        match (effect, observed) {
            (ConnectEffect::ReadRecord, ConnectEvent::Record(sight)) => {
                self.last = Some(Look::Record(sight.clone()));
            }
            (ConnectEffect::Probe(record), ConnectEvent::Probed(probe)) => {
                self.drained = matches!(probe, Probe::Proven(theirs)
                    if theirs.id == record.id && theirs.state == State::Draining);
                self.last = Some(Look::Probe(record.clone(), probe.clone()));
            }
            (ConnectEffect::Lock, ConnectEvent::Locked(locked)) => {
                (self.locked, self.asked_for_the_lock, self.held) = (*locked, true, Duration::ZERO);
            }
            (ConnectEffect::Unlock, ConnectEvent::Unlocked) => self.locked = false,
            (ConnectEffect::Spawn, ConnectEvent::Spawned) => {
                self.tried += 1;
                self.spawned = true;
            }
            (ConnectEffect::Spawn, ConnectEvent::SpawnFailed) => self.tried += 1,
            (ConnectEffect::Spawn, ConnectEvent::Unreachable) => self.could_not_ask = true,
            (ConnectEffect::Spawn, ConnectEvent::SpawnRefused) => self.refused = true,
            (ConnectEffect::Await(_), ConnectEvent::Woken(_, waited)) => self.held += *waited,
            _ => return false,
        }
        true
    }

    /// Whether this is the outcome of what was seen last (CONN-4 to CONN-9).
    fn accounts_for(&self, outcome: &ConnectOutcome) -> bool {
        match (outcome, &self.last) {
            (ConnectOutcome::SpawnFailed, _) => self.tried > 0,
            (ConnectOutcome::Invalid, _) if self.refused => self.tried == 0,
            (ConnectOutcome::Unreachable, _) if self.could_not_ask => self.tried == 0,
            (ConnectOutcome::Unreachable, Some(Look::Probe(_, probe))) => *probe == Probe::Unreachable,
            (ConnectOutcome::Ready(found), Some(Look::Probe(record, Probe::Proven(theirs)))) => {
                let (of, said) = &**found;
                of == record
                    && said == theirs
                    && theirs.id == record.id
                    && theirs.state == State::Ready
                    && theirs.protocol == self.policy.protocol
            }
            // What was not looked at may be there.
            (ConnectOutcome::Busy, None) => true,
            // A record that was read and not yet probed leaves the outcome to the look before.
            (outcome, Some(Look::Record(RecordRead::Record(_)))) => {
                !matches!(outcome, ConnectOutcome::Ready(_))
            }
            (ConnectOutcome::Absent, Some(Look::Record(sight))) => *sight != RecordRead::Unreadable,
            (ConnectOutcome::Invalid, Some(Look::Record(sight))) => *sight == RecordRead::Unreadable,
            (ConnectOutcome::Stale, Some(Look::Probe(record, probe))) => match probe {
                Probe::Refused => true,
                Probe::Proven(theirs) => theirs.id != record.id,
                _ => false,
            },
            (ConnectOutcome::Busy, Some(Look::Probe(_, probe))) => *probe == Probe::TimedOut || self.drained,
            (ConnectOutcome::Foreign, Some(Look::Probe(_, probe))) => *probe == Probe::Foreign,
            (ConnectOutcome::Incompatible(None), Some(Look::Probe(_, probe))) => *probe == Probe::OtherSpec,
            (ConnectOutcome::Incompatible(Some(said)), Some(Look::Probe(record, Probe::Proven(theirs)))) => {
                theirs.id == record.id && theirs.protocol == *said && *said != self.policy.protocol
            }
            (ConnectOutcome::Invalid, Some(Look::Probe(_, probe))) => {
                matches!(probe, Probe::NoCredential | Probe::CredentialRefused)
            }
            _ => false,
        }
    }
}

/// The first byte is the policy; each other one is an observation. Then the deadline passes.
pub fn run(data: &[u8]) {
    let observations = observations();
    let Some((first, steps)) = data.split_first() else {
        return;
    };
    let policy = Policy { protocol: protocol(2), spawn: first & 1 == 1, replace: first & 2 == 2 };
    let mut watched = Watched {
        connect: Connect::new(policy.clone()),
        policy,
        locked: false,
        held: Duration::ZERO,
        asked_for_the_lock: false,
        tried: 0,
        spawned: false,
        last: None,
        drained: false,
        could_not_ask: false,
        refused: false,
    };
    for step in steps {
        let observed = Choices::of(&[*step]).pick(&observations).expect("there is a byte");
        if !watched.step(observed) {
            break;
        }
    }
    // not-stuck
    watched.connect.expire();
    if watched.connect.effect() == Some(ConnectEffect::Unlock) {
        watched.step(ConnectEvent::Unlocked);
    }
    assert_eq!(watched.connect.effect(), None, "nothing but the lock is owed after the deadline");
    assert!(!watched.locked, "CONN-19: the lock is kept");
    let outcome = watched.connect.outcome().expect("the call is over");
    assert!(watched.accounts_for(outcome), "{outcome:?} after {:?}", watched.last);
}

/// A warm call, a cold one, one that waits for a successor, one whose child fails, one that meets a newer daemon.
pub fn seeds() -> Vec<Seed> {
    let all = observations();
    let bytes = |first: u8, steps: &[ConnectEvent]| {
        let byte = |wanted: &ConnectEvent| {
            let at = all.iter().position(|observed| observed == wanted).expect("it is one of them");
            u8::try_from(at).expect("a table of a few dozen")
        };
        std::iter::once(first).chain(steps.iter().map(byte)).collect::<Vec<u8>>()
    };
    let proven = |number, state| {
        let is_it = |probe: &Probe| {
            matches!(probe, Probe::Proven(theirs)
                if theirs.id == id(2) && theirs.state == state && theirs.protocol == protocol(number))
        };
        ConnectEvent::Probed(probes().into_iter().find(is_it).expect("it is one of them"))
    };
    let there = || ConnectEvent::Record(RecordRead::Record(record(2)));
    let missing = || ConnectEvent::Record(RecordRead::Missing);
    let woken = |child| ConnectEvent::Woken(child, Duration::from_millis(25));
    let cold = [
        missing(),
        ConnectEvent::Locked(true),
        missing(),
        ConnectEvent::Spawned,
    ];
    let then = |more: &[ConnectEvent]| bytes(1, &[&cold, more].concat());
    [
        ("warm", bytes(0, &[there(), proven(2, State::Ready)])),
        (
            "cold",
            then(&[
                woken(Child::Done),
                there(),
                proven(2, State::Ready),
                ConnectEvent::Unlocked,
            ]),
        ),
        ("failed", then(&[woken(Child::Failed), missing(), ConnectEvent::Unlocked])),
        (
            "slow",
            then(&[
                ConnectEvent::Woken(Child::Silent, Duration::from_millis(600)),
                missing(),
                ConnectEvent::Woken(Child::Silent, Duration::from_millis(600)),
                missing(),
            ]),
        ),
        (
            "successor",
            bytes(
                1,
                &[
                    there(),
                    proven(2, State::Draining),
                    woken(Child::Silent),
                    missing(),
                ],
            ),
        ),
        ("newer", bytes(1, &[there(), proven(3, State::Ready), there()])),
        (
            "older",
            bytes(
                1,
                &[
                    there(),
                    proven(1, State::Ready),
                    there(),
                    ConnectEvent::Locked(false),
                    missing(),
                ],
            ),
        ),
        (
            "no-lock",
            bytes(
                1,
                &[
                    missing(),
                    ConnectEvent::Locked(false),
                    missing(),
                    ConnectEvent::SpawnFailed,
                ],
            ),
        ),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}
