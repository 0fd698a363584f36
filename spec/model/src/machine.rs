//! What the two machines of the crate want and hear, in small values that a world can hold by the million.
//!
//! A [`Letter`] is everything that can be told to a machine: the outcome of an effect, a stop, a deadline. [`Out`] is
//! everything that others can tell about it. Both are plain translations: [`Subject::hear`] builds the crate's own
//! [`ClaimEvent`] or [`ConnectEvent`] and hands it to the crate's own type.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use local_daemon_proto::Protocol;
use local_daemon_proto::claim::{Claim, ClaimEffect, ClaimEvent, Reason};
use local_daemon_proto::connect::{
    Child, Connect, ConnectEffect, ConnectEvent, ConnectOutcome, LOCK_TIMEOUT, Policy,
};
use local_daemon_proto::handshake::{Handshake, Probe, State};
use local_daemon_proto::registration::{self, ClaimId, LoopbackHost, LoopbackUrl, RecordRead, Registration};

/// The most daemons that a world holds.
pub const DAEMONS: usize = 5;
/// One id more than daemons, which no daemon bears: a machine mentions an id where it can be told from this one.
pub const IDS: usize = DAEMONS + 1;
/// A renaming of the daemons: each one's new id.
pub type Names = [u8; IDS];
/// "None" wherever a world holds a small number.
pub const NONE: u8 = u8::MAX;

/// A record as a world holds it: whose id stands in it, and whose port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Record {
    /// The daemon whose id it is.
    pub id: u8,
    /// The daemon whose port it was first. Ports are reused where a scenario says so.
    pub port: u8,
}

/// What a read of the registration shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Content {
    /// No such file.
    Missing,
    /// Half a record.
    Torn,
    /// A whole one.
    Record(Record),
}

impl Content {
    /// Whose id stands in it.
    pub fn id(self) -> Option<u8> {
        match self {
            Self::Record(record) => Some(record.id),
            Self::Missing | Self::Torn => None,
        }
    }
}

/// What a probe brings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// Nobody listens there.
    Refused,
    /// A stopped process does.
    TimedOut,
    /// Somebody without the credential does.
    Foreign,
    /// There is no credential yet.
    NoCredential,
    /// It lives in another network namespace.
    Unreachable,
    /// A daemon proved itself.
    Proven {
        /// Its id.
        id: u8,
        /// Its protocol's number.
        protocol: u8,
        /// Whether it said `ready`.
        ready: bool,
    },
}

/// Everything that a machine can be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Letter {
    /// The effect was done, or the wait is over.
    Done,
    /// There was no such file.
    Missing,
    /// It failed.
    Failed,
    /// A read of the record, or of a taken file.
    Read(Content),
    /// A probe.
    Probed(Answer),
    /// Whether taken files hold the own id.
    Taken(bool),
    /// Whether the lock came in time.
    Locked(bool),
    /// It was given back.
    Unlocked,
    /// The child was started.
    Spawned,
    /// A wait ended with the child in this state; the flag says that the lock's second has passed.
    Woken(Child, bool),
    /// SIGTERM.
    Stop,
    /// The call's deadline.
    Expire,
}

/// How many letters there are.
pub const LETTERS: usize = FIRST_RECORD + IDS * IDS;
const FIRST_PROVEN: usize = 24;
const FIRST_RECORD: usize = FIRST_PROVEN + IDS * 4;

impl Letter {
    /// The column of this letter in a transition table.
    pub fn index(self) -> usize {
        match self {
            Self::Done => 0,
            Self::Missing => 1,
            Self::Failed => 2,
            Self::Taken(found) => 3 + usize::from(found),
            Self::Locked(locked) => 5 + usize::from(locked),
            Self::Unlocked => 7,
            Self::Spawned => 8,
            Self::Woken(child, second) => {
                let child = match child {
                    Child::Silent => 0,
                    Child::Done => 1,
                    Child::Failed => 2,
                };
                9 + child * 2 + usize::from(second)
            }
            Self::Stop => 15,
            Self::Expire => 16,
            Self::Read(Content::Missing) => 17,
            Self::Read(Content::Torn) => 18,
            Self::Probed(Answer::Refused) => 19,
            Self::Probed(Answer::TimedOut) => 20,
            Self::Probed(Answer::Foreign) => 21,
            Self::Probed(Answer::NoCredential) => 22,
            Self::Probed(Answer::Unreachable) => 23,
            Self::Probed(Answer::Proven { id, protocol, ready }) => {
                FIRST_PROVEN + usize::from(id) * 4 + usize::from(protocol - 1) * 2 + usize::from(ready)
            }
            Self::Read(Content::Record(record)) => {
                FIRST_RECORD + usize::from(record.id) * IDS + usize::from(record.port)
            }
        }
    }

    /// The letter with the daemons renamed.
    #[must_use]
    pub fn renamed(self, names: Names) -> Self {
        let name = |id: u8| names[usize::from(id)];
        match self {
            Self::Read(Content::Record(record)) => {
                Self::Read(Content::Record(Record { id: name(record.id), port: name(record.port) }))
            }
            Self::Probed(Answer::Proven { id, protocol, ready }) => {
                Self::Probed(Answer::Proven { id: name(id), protocol, ready })
            }
            other => other,
        }
    }
}

/// The effect that a machine wants, in a world's terms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Want {
    Nothing,
    Listen,
    ReadCredential,
    CreateCredential,
    WriteTemporary,
    DropTemporary,
    ReadRecord,
    Probe(Record),
    Publish,
    Await,
    ListTaken,
    UnlinkTaken,
    Take,
    ReadTaken,
    UnlinkOwn,
    Drain,
    Close,
    Lock,
    Unlock,
    Spawn,
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum End {
    /// Connected to the daemon of this id.
    Ready(u8),
    /// Any other outcome, by its word.
    Not(&'static str),
}

/// Everything that others can tell about a machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Out {
    /// The effect that it wants now.
    pub want: Want,
    /// A daemon's answer to a handshake while the record is its own: whether it says `ready`.
    pub ready: bool,
    /// Why a daemon stands down, as soon as it does.
    pub reason: Option<Reason>,
    /// How a client's call ended, as soon as it has.
    pub end: Option<End>,
}

impl Out {
    /// What can be told of a process that is not there.
    pub const NOTHING: Self = Self { want: Want::Nothing, ready: false, reason: None, end: None };
}

/// What a scenario's machines may come to hear: the fewer, the smaller the automaton.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Alphabet {
    /// How many ids there are.
    pub ids: u8,
    /// How many protocol generations.
    pub protocols: u8,
    /// Ports are reused, or an id check is left out: any id may answer for any record.
    pub mixed: bool,
    /// Processes are stopped, so that probes time out.
    pub pauses: bool,
    /// Records may be torn.
    pub torn: bool,
    /// Somebody without the credential may answer, or there may be none.
    pub foreign: bool,
    /// There are two network namespaces.
    pub places: bool,
}

impl Alphabet {
    fn records(self) -> impl Iterator<Item = Record> {
        (0..self.ids).flat_map(move |id| {
            (0..self.ids)
                .filter(move |port| self.mixed || *port == id)
                .map(move |port| Record { id, port })
        })
    }

    fn reads(self) -> impl Iterator<Item = Letter> {
        let torn = self.torn.then_some(Content::Torn);
        std::iter::once(Content::Missing)
            .chain(torn)
            .chain(self.records().map(Content::Record))
            .map(Letter::Read)
    }

    fn probes(self, record: Record) -> impl Iterator<Item = Letter> {
        let proven = (0..self.ids)
            .filter(move |id| self.mixed || *id == record.id)
            .flat_map(move |id| (1..=self.protocols).map(move |protocol| (id, protocol)))
            .flat_map(|(id, protocol)| [false, true].map(|ready| Answer::Proven { id, protocol, ready }));
        let pause = self.pauses.then_some(Answer::TimedOut);
        let foreign = self.foreign.then_some([Answer::Foreign, Answer::NoCredential]);
        let unreachable = self.places.then_some(Answer::Unreachable);
        std::iter::once(Answer::Refused)
            .chain(pause)
            .chain(unreachable)
            .chain(foreign.into_iter().flatten())
            .chain(proven)
            .map(Letter::Probed)
    }
}

/// Who a machine is at its start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Root {
    /// A daemon that is launched.
    Daemon {
        /// Its id.
        id: u8,
        /// Its protocol's number.
        protocol: u8,
        /// Whether it was told to yield.
        yields: bool,
    },
    /// A client's call.
    Call {
        /// Its protocol's number.
        protocol: u8,
        /// Whether it may start a daemon.
        spawn: bool,
        /// Whether it displaces an incompatible daemon whatever its number.
        replace: bool,
    },
}

impl Root {
    /// The same with the daemons renamed.
    #[must_use]
    pub fn renamed(self, names: Names) -> Self {
        match self {
            Self::Daemon { id, protocol, yields } => {
                Self::Daemon { id: names[usize::from(id)], protocol, yields }
            }
            call @ Self::Call { .. } => call,
        }
    }
}

/// One of the crate's machines, at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Subject {
    /// A daemon's.
    Daemon(Box<Claim>),
    /// A client's, and whether the lock's second has passed for it.
    Client(Box<Connect>, bool),
}

impl Subject {
    /// The crate's machine, fresh.
    pub fn new(root: Root) -> Self {
        match root {
            Root::Daemon { id, protocol, yields } => {
                Self::Daemon(Box::new(Claim::new(claim_id(id), protocol_number(protocol), yields)))
            }
            Root::Call { protocol, spawn, replace } => Self::Client(
                Box::new(Connect::new(Policy { protocol: protocol_number(protocol), spawn, replace })),
                false,
            ),
        }
    }

    /// What others can tell of it.
    pub fn out(&self) -> Out {
        match self {
            Self::Daemon(claim) => Out {
                want: claim.effect().map_or(Want::Nothing, |effect| daemon_want(&effect)),
                ready: claim.state(&RecordRead::Malformed(Some(claim.id()))) == State::Ready,
                reason: claim.reason(),
                end: None,
            },
            Self::Client(connect, _) => Out {
                want: connect.effect().map_or(Want::Nothing, |effect| client_want(&effect)),
                end: connect.outcome().map(|outcome| match outcome {
                    ConnectOutcome::Ready(found) => End::Ready(record_of(&found.0).id),
                    other => End::Not(other.as_str()),
                }),
                ..Out::NOTHING
            },
        }
    }

    /// The letters that fit the effect that it wants.
    pub fn letters(&self, alphabet: Alphabet) -> Vec<Letter> {
        let want = self.out().want;
        let mut letters: Vec<Letter> = match want {
            Want::Nothing => return Vec::new(),
            Want::ReadRecord => alphabet.reads().collect(),
            Want::ReadTaken => alphabet.reads().chain([Letter::Missing]).collect(),
            Want::Probe(record) => alphabet.probes(record).collect(),
            Want::ListTaken => vec![Letter::Taken(false), Letter::Taken(true)],
            Want::Lock => vec![Letter::Locked(false), Letter::Locked(true)],
            Want::Unlock => vec![Letter::Unlocked],
            Want::Spawn => vec![Letter::Spawned],
            Want::ReadCredential | Want::Take => vec![Letter::Done, Letter::Missing],
            Want::Publish => vec![Letter::Done, Letter::Failed],
            Want::Await => match self {
                Self::Daemon(_) => vec![Letter::Done],
                Self::Client(_, second) => [Child::Silent, Child::Done, Child::Failed]
                    .into_iter()
                    .flat_map(|child| [Letter::Woken(child, false), Letter::Woken(child, true)])
                    .filter(|letter| !(*second && matches!(letter, Letter::Woken(_, true))))
                    .collect(),
            },
            _ => vec![Letter::Done],
        };
        letters.push(match self {
            Self::Daemon(_) => Letter::Stop,
            Self::Client(..) => Letter::Expire,
        });
        letters
    }

    /// Tells it one letter, in the crate's own terms.
    pub fn hear(&mut self, letter: Letter) {
        match self {
            Self::Daemon(claim) => claim.handle(match letter {
                Letter::Done => ClaimEvent::Done,
                Letter::Missing => ClaimEvent::Missing,
                Letter::Read(content) => ClaimEvent::Record(sight(content)),
                Letter::Probed(answer) => ClaimEvent::Probed(probe(answer)),
                Letter::Taken(found) => ClaimEvent::Taken(found),
                Letter::Stop => return claim.stop(),
                _ => ClaimEvent::Failed,
            }),
            Self::Client(connect, second) => connect.handle(match letter {
                Letter::Read(content) => ConnectEvent::Record(sight(content)),
                Letter::Probed(answer) => ConnectEvent::Probed(probe(answer)),
                Letter::Locked(locked) => ConnectEvent::Locked(locked),
                Letter::Unlocked => ConnectEvent::Unlocked,
                Letter::Spawned => ConnectEvent::Spawned,
                Letter::Woken(child, passed) => {
                    *second |= passed;
                    ConnectEvent::Woken(child, if passed { LOCK_TIMEOUT } else { Duration::ZERO })
                }
                Letter::Expire => return connect.expire(),
                _ => ConnectEvent::SpawnFailed,
            }),
        }
    }
}

/// Returns the claim id of the daemon of this number.
pub fn claim_id(id: u8) -> ClaimId {
    ClaimId::from_bits(u128::from(id))
}

/// Returns the protocol of this number.
pub fn protocol_number(number: u8) -> Protocol {
    format!("acme/{number}").parse().expect("a protocol identifier")
}

const FIRST_PORT: u16 = 1000;

fn registration(record: Record) -> Registration {
    let port = NonZeroU16::new(FIRST_PORT + u16::from(record.port)).expect("above 0");
    Registration {
        id: claim_id(record.id),
        version: String::new(),
        url: LoopbackUrl::new(LoopbackHost::V4, port),
        pid: NonZeroU32::MIN,
        protocol: None,
        socket: None,
        started_at: None,
        world: registration::World::default(),
    }
}

fn record_of(registration: &Registration) -> Record {
    let id = (0..=u8::MAX).find(|id| claim_id(*id) == registration.id).expect("an id of this world");
    let port = registration.url.port() - FIRST_PORT;
    Record { id, port: u8::try_from(port).expect("a port of this world") }
}

fn sight(content: Content) -> RecordRead {
    match content {
        Content::Missing => RecordRead::Missing,
        Content::Torn => RecordRead::Malformed(None),
        Content::Record(record) => RecordRead::Record(registration(record)),
    }
}

fn probe(answer: Answer) -> Probe {
    match answer {
        Answer::Refused => Probe::Refused,
        Answer::TimedOut => Probe::TimedOut,
        Answer::Foreign => Probe::Foreign,
        Answer::NoCredential => Probe::NoCredential,
        Answer::Unreachable => Probe::Unreachable,
        Answer::Proven { id, protocol, ready } => Probe::Proven(Handshake {
            protocol: protocol_number(protocol),
            id: claim_id(id),
            pid: NonZeroU32::MIN,
            version: String::new(),
            state: if ready { State::Ready } else { State::Draining },
            capabilities: Vec::new(),
        }),
    }
}

/// Translates what a daemon's machine wants.
pub fn daemon_want(effect: &ClaimEffect) -> Want {
    match effect {
        ClaimEffect::Listen => Want::Listen,
        ClaimEffect::ReadCredential => Want::ReadCredential,
        ClaimEffect::CreateCredential => Want::CreateCredential,
        ClaimEffect::WriteTemporary => Want::WriteTemporary,
        ClaimEffect::DropTemporary => Want::DropTemporary,
        ClaimEffect::ReadRecord => Want::ReadRecord,
        ClaimEffect::Probe(registration) => Want::Probe(record_of(registration)),
        ClaimEffect::Publish => Want::Publish,
        ClaimEffect::Await(_) | ClaimEffect::Pause(_) => Want::Await,
        ClaimEffect::ListTaken => Want::ListTaken,
        ClaimEffect::UnlinkTaken => Want::UnlinkTaken,
        ClaimEffect::Take => Want::Take,
        ClaimEffect::ReadTaken => Want::ReadTaken,
        ClaimEffect::UnlinkOwn => Want::UnlinkOwn,
        ClaimEffect::Drain => Want::Drain,
        ClaimEffect::Close => Want::Close,
    }
}

/// Translates what a client's machine wants.
pub fn client_want(effect: &ConnectEffect) -> Want {
    match effect {
        ConnectEffect::ReadRecord => Want::ReadRecord,
        ConnectEffect::Probe(registration) => Want::Probe(record_of(registration)),
        ConnectEffect::Lock => Want::Lock,
        ConnectEffect::Unlock => Want::Unlock,
        ConnectEffect::Spawn => Want::Spawn,
        ConnectEffect::Await(_) => Want::Await,
    }
}
