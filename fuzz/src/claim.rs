//! `Claim`, told anything: whatever the world answers, also what makes no sense, what the model's properties demand of one
//! daemon holds after each step.

use local_daemon_proto::claim::{Claim, ClaimEffect, ClaimEvent, MAX_PARSE_RETRIES, Reason};
use local_daemon_proto::handshake::{Probe, State};
use local_daemon_proto::registration::{RecordRead, Registration};

use crate::Seed;
use crate::script::{Choices, id, probes, protocol, record, sights};

/// More steps than any way out has.
const LAST_STEPS: usize = 12;

/// Everything that a claim can be told, in the order of the bytes.
fn outcomes() -> Vec<ClaimEvent> {
    let simple = [
        ClaimEvent::Done,
        ClaimEvent::Missing,
        ClaimEvent::Failed,
        ClaimEvent::Taken(true),
        ClaimEvent::Taken(false),
    ];
    let sights = sights().into_iter().map(ClaimEvent::Record);
    simple
        .into_iter()
        .chain(sights)
        .chain(probes().into_iter().map(ClaimEvent::Probed))
        .collect()
}

/// What has been seen of a claim.
struct Watched {
    claim: Claim,
    yields: bool,
    replaces: bool,
    /// The daemon that could not be asked last.
    unreachable: Option<Registration>,
    is_stopped: bool,
    listens: bool,
    has_credential: bool,
    has_temporary: bool,
    published: bool,
    /// What the step before showed, where it was a look.
    last: Option<ClaimEvent>,
    /// How many unparsable records in a row.
    unparsable: u8,
}

impl Watched {
    fn new(yields: bool, replaces: bool) -> Self {
        Self {
            claim: Claim::new(id(1), protocol(2), yields).replaces(replaces),
            yields,
            replaces,
            unreachable: None,
            is_stopped: false,
            listens: false,
            has_credential: false,
            has_temporary: false,
            published: false,
            last: None,
            unparsable: 0,
        }
    }

    fn stop(&mut self) {
        self.claim.stop();
        self.is_stopped = true;
    }

    fn saw_own(&self) -> bool {
        matches!(&self.last, Some(ClaimEvent::Record(sight)) if sight.id() == Some(id(1)))
    }

    /// One step; `false`: the daemon has exited.
    fn step(&mut self, outcome: ClaimEvent) -> bool {
        let Some(effect) = self.claim.effect() else {
            return false;
        };
        let before = self.claim.reason();
        self.may_want(&effect, before);
        self.claim.handle(outcome.clone());
        let after = self.claim.reason();
        assert!(before.is_none() || after == before, "a reason is given once");
        self.note(&effect, &outcome);
        self.must_have_judged(&effect, &outcome, before, after);
        self.last = Some(outcome);
        // ready-owns, HS-16: never in the name of another, never while it leaves.
        for sight in sights() {
            let owns = sight.id() == Some(id(1));
            let ready = self.claim.state(&sight) == State::Ready;
            assert_eq!(ready, owns && self.published && after.is_none() && !self.is_stopped, "{sight:?}");
        }
        true
    }

    fn may_want(&self, effect: &ClaimEffect, reason: Option<Reason>) {
        match effect {
            ClaimEffect::Publish => {
                assert!(self.listens && self.has_credential, "PUB-4: listen first");
                assert!(self.has_temporary, "there is nothing to rename");
                assert!(!self.is_stopped || reason.is_none(), "CONV-11");
                let bars = matches!(&self.last, Some(ClaimEvent::Record(RecordRead::Record(seen))) if self.unreachable.as_ref() == Some(seen))
                    || matches!(self.last, Some(ClaimEvent::Probed(Probe::Unreachable)));
                assert!(
                    !bars || self.published || self.replaces,
                    "CONV-35: over a daemon that was not asked"
                );
            }
            // own-removal, CONV-15: only what was seen to be its own in the step before.
            ClaimEffect::Take | ClaimEffect::UnlinkOwn => {
                assert!(self.saw_own() || matches!(effect, ClaimEffect::UnlinkOwn) && self.saw_own());
            }
            ClaimEffect::Probe(other) => {
                assert!(self.yields && other.id != id(1));
                assert!(
                    matches!(&self.last, Some(ClaimEvent::Record(RecordRead::Record(seen))) if seen == other)
                );
            }
            ClaimEffect::DropTemporary => assert!(self.has_temporary),
            _ => {}
        }
        if reason.is_some() {
            let leaving = matches!(
                effect,
                ClaimEffect::ReadRecord
                    | ClaimEffect::Take
                    | ClaimEffect::ReadTaken
                    | ClaimEffect::UnlinkOwn
                    | ClaimEffect::DropTemporary
                    | ClaimEffect::Drain
                    | ClaimEffect::Close
            );
            assert!(leaving, "CONV-11: {effect:?} while it stands down");
        }
    }

    fn note(&mut self, effect: &ClaimEffect, outcome: &ClaimEvent) {
        let done = *outcome == ClaimEvent::Done;
        match effect {
            ClaimEffect::Listen => self.listens |= done,
            ClaimEffect::ReadCredential => self.has_credential |= done,
            ClaimEffect::WriteTemporary => self.has_temporary |= done,
            ClaimEffect::DropTemporary => self.has_temporary = false,
            ClaimEffect::Probe(record) => {
                let is_unreachable = *outcome == ClaimEvent::Probed(Probe::Unreachable);
                self.unreachable = is_unreachable.then(|| record.clone());
            }
            ClaimEffect::Publish if done => {
                self.published = true;
                self.has_temporary = false;
                self.unparsable = 0;
            }
            _ => {}
        }
    }

    /// What a look at the record has to lead to in a daemon that serves.
    fn must_have_judged(
        &mut self,
        effect: &ClaimEffect,
        outcome: &ClaimEvent,
        before: Option<Reason>,
        after: Option<Reason>,
    ) {
        if after == Some(Reason::Yielded) && before.is_none() {
            // spared, CONV-26
            let proven = matches!((effect, outcome), (ClaimEffect::Probe(record), ClaimEvent::Probed(Probe::Proven(theirs)))
                if theirs.id == record.id && theirs.state == State::Ready && theirs.protocol == protocol(2));
            assert!(proven && !self.published, "it left for nobody");
        }
        if after == Some(Reason::Unreachable) && before.is_none() {
            let unread = *effect == ClaimEffect::ReadRecord && !matches!(outcome, ClaimEvent::Record(_));
            assert!((self.unreachable.is_some() || unread) && !self.replaces && !self.published, "CONV-35");
        }
        let (ClaimEffect::ReadRecord, ClaimEvent::Record(sight)) = (effect, outcome) else {
            return;
        };
        if !self.published || before.is_some() || self.is_stopped {
            return;
        }
        let is_unparsable = *sight == RecordRead::Malformed(None);
        let expected = match (sight.id(), sight) {
            (Some(owner), _) => (owner != id(1)).then_some(Reason::Displaced), // CONV-3, CONV-9
            (None, RecordRead::DirectoryGone) => Some(Reason::DirectoryGone),  // CONV-24
            // CONV-4, CONV-5
            (None, RecordRead::Malformed(_)) => {
                (self.unparsable == MAX_PARSE_RETRIES).then_some(Reason::Displaced)
            }
            (None, _) => None,
        };
        assert_eq!(after, expected, "{sight:?}");
        match sight {
            RecordRead::Missing => {
                assert_eq!(self.claim.effect(), Some(ClaimEffect::ListTaken), "no-collateral, CONV-21");
            }
            _ if is_unparsable => self.unparsable += 1,
            _ if sight.id() == Some(id(1)) => self.unparsable = 0,
            _ => {}
        }
    }
}

/// The first byte says whether it yields, and whether it replaces. Each other one is an outcome, with a stop before it if the
/// byte is 240 or more.
pub fn run(data: &[u8]) {
    let outcomes = outcomes();
    let Some((first, steps)) = data.split_first() else {
        return;
    };
    let mut watched = Watched::new(first % 2 == 1, first % 16 >= 8);
    for step in steps {
        if *step >= 240 {
            watched.stop();
        }
        let outcome = Choices::of(&[*step]).pick(&outcomes).expect("there is a byte");
        if !watched.step(outcome) {
            break;
        }
    }
    // not-stuck: once it is to stop, it is gone after a few steps, whether they succeed or fail.
    watched.stop();
    let last = if first % 4 < 2 { ClaimEvent::Done } else { ClaimEvent::Failed };
    for _ in 0..LAST_STEPS {
        watched.step(last.clone());
    }
    assert_eq!(watched.claim.effect(), None, "it does not leave");
    let reason = watched.claim.reason().expect("it has left for a reason");
    assert!(watched.published || !matches!(reason, Reason::Displaced | Reason::RecordRemoved));
    assert!(!watched.has_temporary, "PUB-13: its temporary file is left");
}

/// A start, a stop, a displacement, a reclaim, a yield.
pub fn seeds() -> Vec<Seed> {
    let all = outcomes();
    let byte = |wanted: &ClaimEvent| {
        let at = all.iter().position(|outcome| outcome == wanted).expect("it is one of them");
        u8::try_from(at).expect("a table of a few dozen")
    };
    let done = byte(&ClaimEvent::Done);
    let own = byte(&ClaimEvent::Record(RecordRead::Record(record(1))));
    let other = byte(&ClaimEvent::Record(RecordRead::Record(record(2))));
    let missing = byte(&ClaimEvent::Record(RecordRead::Missing));
    let ready = probes().into_iter().find(|probe| {
        matches!(probe, Probe::Proven(theirs)
            if theirs.id == id(2) && theirs.state == State::Ready && theirs.protocol == protocol(2))
    });
    let ready = byte(&ClaimEvent::Probed(ready.expect("it is one of them")));
    let start = [0, done, byte(&ClaimEvent::Missing), done, done, done, done];
    let unreachable = byte(&ClaimEvent::Probed(Probe::Unreachable));
    let with = |more: &[u8]| [&start, more].concat();
    // The lowest byte that stops and stands for `Done`.
    let stop = (240..=255_u8)
        .find(|byte| usize::from(*byte) % all.len() == usize::from(done))
        .unwrap_or(240);
    [
        ("stop", with(&[stop, own, done, own, done, done, done])),
        ("displaced", with(&[done, own, done, other, done, done])),
        ("reclaim", with(&[done, missing, byte(&ClaimEvent::Taken(true)), done, done, done])),
        ("removed", with(&[done, missing, byte(&ClaimEvent::Taken(false)), done, done])),
        ("unparsable", with(&[done, byte(&ClaimEvent::Record(RecordRead::Malformed(None)))].repeat(7))),
        ("yield", vec![1, done, done, done, other, ready, done, done]),
        (
            "late-yield",
            vec![
                1,
                done,
                done,
                done,
                other,
                byte(&ClaimEvent::Probed(Probe::Foreign)),
                own,
                done,
            ],
        ),
        ("unreachable", vec![1, done, done, done, other, unreachable, other, done, done]),
        ("unreachable-replaced", vec![9, done, done, done, other, unreachable, other, done]),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}
