//! The client's side, connect-or-spawn, as a machine. No I/O, no clock.
//!
//! [`Connect::effect`] names the one effect that is wanted now and [`Connect::handle`] takes what was observed. Time comes
//! in with the end of a wait; the whole deadline is the driver's, who calls [`Connect::expire`].

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gate::Protocol;
use crate::handshake::{Handshake, Probe, State};
use crate::registration::{RecordRead, Registration};

/// How long a call waits for the advisory lock, and how long it holds it for its child at most (CONN-17, CONN-19).
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// The first pause between two reads of the record.
pub const MIN_POLL_INTERVAL: Duration = Duration::from_millis(25);
/// The longest.
pub const MAX_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What a caller wants.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Policy {
    /// The wire protocol that the client speaks.
    pub protocol: Protocol,
    /// Whether a daemon may be started.
    pub spawn: bool,
    /// Whether a daemon is displaced that cannot be asked (CONN-49), or that is incompatible, whatever its name and number.
    pub replace: bool,
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "what drives the machine handles each")]
pub enum ConnectEffect {
    /// Read the registration.
    ReadRecord,
    /// Probe this record's daemon.
    Probe(Registration),
    /// Wait for the advisory lock, [`LOCK_TIMEOUT`] at most.
    Lock,
    /// Give the advisory lock back.
    Unlock,
    /// Start a detached daemon, told to yield.
    Spawn,
    /// Wait for the child's word, a change notification, or this long.
    Await(Duration),
}

/// What was observed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "what drives the machine handles each")]
pub enum ConnectEvent {
    /// A read of the record.
    Record(RecordRead),
    /// A probe.
    Probed(Probe),
    /// Whether the lock came in time.
    Locked(bool),
    /// The lock was given back.
    Unlocked,
    /// The child was started.
    Spawned,
    /// It could not be started, or the restart budget is used up.
    SpawnFailed,
    /// Nothing was started, because this process could not ask the new daemon either (CONN-38).
    Unreachable,
    /// Nothing was started, because the child's log cannot be trusted (DIR-20).
    SpawnRefused,
    /// The wait ended after this long, with the child in this state.
    Woken(Child, Duration),
}

/// What is known of the child.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "what drives the machine handles each")]
pub enum Child {
    /// None was started, or it has not said anything yet.
    Silent,
    /// It published, or left the place to a daemon that was there.
    Done,
    /// It ended without either.
    Failed,
}

/// The outcome of a connect (CONN-1).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the specification closes the list")]
pub enum ConnectOutcome {
    /// Proven, of the record's id, compatible, taking work (CONN-4).
    Ready(Box<(Registration, Handshake)>),
    /// No record, or a malformed one (CONN-5).
    Absent,
    /// A record whose daemon is gone: refused, the port is another daemon's by now, or its boot or network namespace is
    /// over (CONN-6, CONN-40, CONN-41).
    Stale,
    /// Timed out, broken off twice in a row, or draining past the deadline (CONN-7).
    Busy,
    /// Something answers there and does not prove itself (CONN-8).
    Foreign,
    /// Proven, and of another protocol; `None` where it speaks by another contract altogether.
    Incompatible(Option<Protocol>),
    /// The record or the credential must not be trusted, or cannot be read (CONN-9, DIR-14).
    Invalid,
    /// The child could not be started or ended with an error (CONN-26).
    SpawnFailed,
    /// The daemon could not be asked, so that nothing is known of it (CONN-37, CONN-39, CONN-41).
    Unreachable,
}

impl ConnectOutcome {
    /// Returns the word in JSON (CONN-3).
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ready(..) => "ready",
            Self::Absent => "absent",
            Self::Stale => "stale",
            Self::Busy => "busy",
            Self::Foreign => "foreign",
            Self::Incompatible(_) => "incompatible",
            Self::Invalid => "invalid",
            Self::SpawnFailed => "spawn-failed",
            Self::Unreachable => "unreachable",
        }
    }

    /// Returns the exit code of a command that reports it (CONN-2).
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Ready(..) => 0,
            Self::Absent => 10,
            Self::Stale => 11,
            Self::Busy => 12,
            Self::Foreign => 13,
            Self::Incompatible(_) => 14,
            Self::Invalid => 15,
            Self::SpawnFailed => 16,
            Self::Unreachable => 17,
        }
    }
}

/// How many failed spawns a minute are too many (CONN-21).
const BUDGET: usize = 3;
const BUDGET_WINDOW_MS: u64 = 60_000;

/// The restart budget: after three spawns in a minute that did not become ready, calls fail at once until the minute
/// is over.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Budget {
    /// When spawns failed, in milliseconds since 1970, the last three at most.
    failed_at_ms: Vec<u64>,
    /// What the last of them said.
    error: String,
}

impl Budget {
    /// Returns the last child's error, and the time after which a daemon may be started again (CONN-43), if the budget is
    /// used up at `now` (milliseconds since 1970).
    pub fn exhausted(&self, now: u64) -> Option<(&str, Duration)> {
        let age = |at: &u64| now.checked_sub(*at).filter(|age| *age < BUDGET_WINDOW_MS);
        let ages: Vec<u64> = self.failed_at_ms.iter().filter_map(age).collect();
        let oldest = ages.iter().max().filter(|_| ages.len() >= BUDGET)?;
        Some((&self.error, Duration::from_millis(BUDGET_WINDOW_MS - oldest)))
    }

    /// Counts one spawn that did not become ready.
    pub fn failed(&mut self, now: u64, error: &str) {
        self.failed_at_ms.push(now);
        let old = self.failed_at_ms.len().saturating_sub(BUDGET);
        self.failed_at_ms.drain(..old);
        error.clone_into(&mut self.error);
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Read,
    Probe(Registration),
    Reread(Registration),
    ProbeAgain(Registration),
    Lock,
    LockedRead,
    LockedProbe(Registration),
    Spawn,
    Await,
    Unlock,
    WaitRead,
    WaitProbe(Registration),
    LastRead,
    LastProbe(Registration),
    LastReread(Registration),
    Finished,
}

/// One call of connect or connect-or-spawn.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Connect {
    policy: Policy,
    phase: Phase,
    /// What the last look showed; the outcome where nothing better comes.
    outcome: ConnectOutcome,
    /// The record that was probed last and cannot become ready: not waited on (CONN-23).
    dead: Option<Registration>,
    locked: bool,
    spawned: bool,
    /// The child has said that it published or yielded: what is there now has come after it.
    told: bool,
    held: Duration,
    poll: Duration,
}

impl Connect {
    /// Returns a call under `policy`.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            phase: Phase::Read,
            // What has not been looked at may be there.
            outcome: ConnectOutcome::Busy,
            dead: None,
            locked: false,
            spawned: false,
            told: false,
            held: Duration::ZERO,
            poll: MIN_POLL_INTERVAL,
        }
    }

    /// Returns the outcome, once the call is over.
    pub fn outcome(&self) -> Option<&ConnectOutcome> {
        (self.phase == Phase::Finished && !self.locked).then_some(&self.outcome)
    }

    /// Returns the effect that is wanted now; `None` when the call is over.
    pub fn effect(&self) -> Option<ConnectEffect> {
        Some(match &self.phase {
            Phase::Read
            | Phase::Reread(_)
            | Phase::LockedRead
            | Phase::WaitRead
            | Phase::LastRead
            | Phase::LastReread(_) => ConnectEffect::ReadRecord,
            Phase::Probe(record)
            | Phase::ProbeAgain(record)
            | Phase::LockedProbe(record)
            | Phase::WaitProbe(record)
            | Phase::LastProbe(record) => ConnectEffect::Probe(record.clone()),
            Phase::Lock => ConnectEffect::Lock,
            Phase::Spawn => ConnectEffect::Spawn,
            Phase::Await => ConnectEffect::Await(self.poll),
            Phase::Unlock => ConnectEffect::Unlock,
            Phase::Finished if self.locked => ConnectEffect::Unlock,
            Phase::Finished => return None,
        })
    }

    /// Ends the call, whose whole deadline has passed, with what it saw last.
    pub fn expire(&mut self) {
        if self.phase != Phase::Finished {
            if self.spawned && !matches!(self.outcome, ConnectOutcome::Busy | ConnectOutcome::Unreachable) {
                self.outcome = ConnectOutcome::SpawnFailed;
            }
            self.phase = Phase::Finished;
        }
    }

    /// Takes what the effect that [`effect`](Self::effect) named led to. What does not fit is ignored.
    pub fn handle(&mut self, observed: ConnectEvent) {
        let phase = core::mem::replace(&mut self.phase, Phase::Finished);
        self.phase = match (phase, observed) {
            (Phase::Unlock, ConnectEvent::Unlocked) => {
                self.locked = false;
                Phase::Await
            }
            (Phase::Finished, ConnectEvent::Unlocked) => {
                self.locked = false;
                Phase::Finished
            }

            // Read (CONN-11), probe, and read once more before anything is started (CONN-14). Neither the record nor its
            // pid counts for anything by itself (REG-13).
            (Phase::Read, ConnectEvent::Record(sight)) => match self.see(sight) {
                Seen::Record(record) => Phase::Probe(record),
                Seen::Nothing => self.spawn_path(),
                Seen::Untrusted => Phase::Finished,
            },
            (Phase::Probe(record), ConnectEvent::Probed(probe)) => match self.judge(record, probe) {
                Look::Ready | Look::Refused => Phase::Finished,
                Look::Draining => Phase::Await,
                Look::Dead(record) => Phase::Reread(record),
            },
            (Phase::Reread(before), ConnectEvent::Record(sight)) => match self.see(sight) {
                Seen::Record(record) if record != before => Phase::ProbeAgain(record),
                Seen::Record(_) | Seen::Nothing => self.spawn_path(),
                Seen::Untrusted => Phase::Finished,
            },
            (Phase::ProbeAgain(record), ConnectEvent::Probed(probe)) => match self.judge(record, probe) {
                Look::Ready | Look::Refused => Phase::Finished,
                Look::Draining => Phase::Await,
                Look::Dead(_) => self.spawn_path(),
            },

            // The lock spares churn (CONN-16); without it the call goes on all the same (CONN-17, CONN-18).
            (Phase::Lock, ConnectEvent::Locked(locked)) => {
                self.locked = locked;
                self.held = Duration::ZERO; // CONN-19: what it waited before does not count.
                Phase::LockedRead
            }
            (Phase::LockedRead, ConnectEvent::Record(sight)) => match self.see(sight) {
                Seen::Record(record) => Phase::LockedProbe(record),
                Seen::Nothing => Phase::Spawn,
                Seen::Untrusted => Phase::Finished,
            },
            (Phase::LockedProbe(record), ConnectEvent::Probed(probe)) => match self.judge(record, probe) {
                Look::Ready | Look::Refused => Phase::Finished,
                Look::Draining => self.unlock_and_wait(),
                Look::Dead(_) if self.barred() => Phase::Finished,
                Look::Dead(_) => Phase::Spawn,
            },
            (Phase::Spawn, ConnectEvent::Spawned) => {
                // CONN-20: the one spawn of this call, told to yield (CONN-22, CONN-34).
                self.spawned = true;
                self.poll = MIN_POLL_INTERVAL;
                Phase::Await
            }
            (Phase::Spawn, ConnectEvent::SpawnFailed) => {
                self.outcome = ConnectOutcome::SpawnFailed;
                Phase::Finished
            }
            (Phase::Spawn, ConnectEvent::Unreachable) => {
                self.outcome = ConnectOutcome::Unreachable;
                Phase::Finished
            }
            (Phase::Spawn, ConnectEvent::SpawnRefused) => {
                self.outcome = ConnectOutcome::Invalid;
                Phase::Finished
            }

            // Wait for a record that is new, whoever wrote it (CONN-24, CONN-25), or for a draining daemon's successor
            // (CONN-13, HS-33).
            (Phase::Await, ConnectEvent::Woken(child, waited)) => {
                self.held += waited;
                if waited >= self.poll {
                    self.poll = (self.poll * 2).min(MAX_POLL_INTERVAL);
                }
                match child {
                    Child::Failed if self.spawned => Phase::LastRead,
                    Child::Done => {
                        self.dead = None;
                        self.told = true;
                        Phase::WaitRead
                    }
                    Child::Silent | Child::Failed => Phase::WaitRead,
                }
            }
            (Phase::WaitRead, ConnectEvent::Record(sight)) => match self.see(sight) {
                Seen::Record(record) if self.dead.as_ref() == Some(&record) => self.wait_on(),
                Seen::Record(record) => Phase::WaitProbe(record),
                Seen::Nothing if self.spawned => self.wait_on(),
                Seen::Nothing => self.spawn_path(),
                Seen::Untrusted => Phase::Finished,
            },
            (Phase::WaitProbe(record), ConnectEvent::Probed(probe)) => match self.judge(record, probe) {
                Look::Ready | Look::Refused => Phase::Finished,
                Look::Draining => self.wait_on(),
                Look::Dead(_) if !self.spawned => self.spawn_path(),
                // The child judges by its own world, and has not said yet what it found.
                Look::Dead(_) if self.outcome == ConnectOutcome::Unreachable && !self.told => self.wait_on(),
                Look::Dead(_) if self.barred() => Phase::Finished,
                // This call's one spawn is used up (CONN-20), and no other daemon will come: another one displaced the
                // child, or the child cannot be asked either.
                Look::Dead(_)
                    if self.told
                        && matches!(
                            self.outcome,
                            ConnectOutcome::Incompatible(_) | ConnectOutcome::Unreachable
                        ) =>
                {
                    Phase::Finished
                }
                Look::Dead(_) => {
                    // A new daemon on a loaded machine may need more than one bounded look.
                    self.dead = self.dead.take().filter(|_| self.outcome != ConnectOutcome::Busy);
                    self.wait_on()
                }
            },

            // The child failed; somebody else's may be there.
            (Phase::LastRead, ConnectEvent::Record(sight)) => match self.see(sight) {
                Seen::Record(record) => Phase::LastProbe(record),
                Seen::Nothing | Seen::Untrusted => self.child_failed(),
            },
            (Phase::LastProbe(record), ConnectEvent::Probed(probe)) => match self.judge(record, probe) {
                Look::Ready => Phase::Finished,
                Look::Dead(record) => Phase::LastReread(record),
                Look::Draining | Look::Refused => self.child_failed(),
            },
            (Phase::LastReread(before), ConnectEvent::Record(sight)) => match self.see(sight) {
                Seen::Record(record) if record != before => Phase::LastProbe(record),
                Seen::Record(_) if self.outcome == ConnectOutcome::Unreachable => Phase::Finished,
                Seen::Record(_) | Seen::Nothing | Seen::Untrusted => self.child_failed(),
            },

            (phase, _) => phase,
        };
    }

    fn see(&mut self, sight: RecordRead) -> Seen {
        let (outcome, seen) = match sight {
            RecordRead::Record(record) => return Seen::Record(record),
            // REG-11: a malformed record counts as absent.
            RecordRead::Missing | RecordRead::DirectoryGone | RecordRead::Malformed(_) => {
                (ConnectOutcome::Absent, Seen::Nothing)
            }
            RecordRead::Unreadable => (ConnectOutcome::Invalid, Seen::Untrusted),
        };
        self.outcome = outcome;
        seen
    }

    fn judge(&mut self, record: Registration, probe: Probe) -> Look {
        self.outcome = match probe {
            // HS-27: the credential's holder, and another daemon than the record's, which is stale.
            Probe::Proven(theirs) if theirs.id != record.id => ConnectOutcome::Stale,
            Probe::Proven(theirs) if theirs.state == State::Draining => {
                self.outcome = ConnectOutcome::Busy;
                return Look::Draining;
            }
            Probe::Proven(theirs) if self.policy.protocol.accepts(&theirs.protocol) => {
                self.outcome = ConnectOutcome::Ready(Box::new((record, theirs)));
                return Look::Ready;
            }
            Probe::Proven(theirs) => ConnectOutcome::Incompatible(Some(theirs.protocol)),
            Probe::OtherSpec => ConnectOutcome::Incompatible(None),
            Probe::Refused => ConnectOutcome::Stale,
            Probe::TimedOut => ConnectOutcome::Busy,
            Probe::Unreachable => ConnectOutcome::Unreachable,
            Probe::Foreign => ConnectOutcome::Foreign,
            Probe::NoCredential => ConnectOutcome::Invalid,
            Probe::CredentialRefused => {
                self.outcome = ConnectOutcome::Invalid;
                return Look::Refused;
            }
        };
        self.dead = Some(record.clone());
        Look::Dead(record)
    }

    /// Whether a daemon was seen that this client must not displace (GATE-8) or could not ask (CONN-38).
    fn barred(&self) -> bool {
        let may = match &self.outcome {
            ConnectOutcome::Incompatible(Some(theirs)) => self.policy.protocol.may_displace(theirs),
            ConnectOutcome::Incompatible(None) | ConnectOutcome::Unreachable => false,
            _ => true,
        };
        !self.policy.replace && !may
    }

    fn spawn_path(&mut self) -> Phase {
        // CONN-12
        if !self.policy.spawn || self.barred() { Phase::Finished } else { Phase::Lock }
    }

    fn unlock_and_wait(&self) -> Phase {
        if self.locked { Phase::Unlock } else { Phase::Await }
    }

    /// Goes on waiting; gives the lock back once the child has had its second.
    fn wait_on(&self) -> Phase {
        if self.locked && self.held >= LOCK_TIMEOUT {
            Phase::Unlock
        } else {
            Phase::Await
        }
    }

    fn child_failed(&mut self) -> Phase {
        self.outcome = ConnectOutcome::SpawnFailed;
        Phase::Finished
    }
}

enum Seen {
    Record(Registration),
    Nothing,
    Untrusted,
}

enum Look {
    Ready,
    Draining,
    Dead(Registration),
    Refused,
}
