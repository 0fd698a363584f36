//! The world around the machines: one state directory, loopback, processes, and what goes wrong.
//!
//! One step is one effect that others can tell: a system call on the directory or one handshake. What no other
//! process can tell is done with the step before it: a daemon's listening on a port that nobody knows, its temporary
//! file of a unique name, the reading and unlinking of what it took, the drain. A crash, a pause or a signal between
//! such steps is a crash, a pause or a signal before or after them to everybody else.
//!
//! Waiting costs no steps: a serving daemon's wait and re-read are one step, which exists only where the read changes
//! something; a waiting client wakes only where wake, read and probe would now end elsewhere than in the same wait.
//! Time passes only where nothing else can happen or a stopped process is waited for: a lock's second, a call's
//! deadline. (A scenario that is `hurried` lets deadlines pass at any time.)

use local_daemon::{claim::Reason, connect::Child};
use std::sync::Arc;

use crate::{
    automaton::{Automaton, GONE, Local, OFF, rank},
    machine::{Answer, Content, DAEMONS, End, IDS, Letter, NONE, Out, Record, Root, Want},
    scenario::{CLIENTS, Deviation, ENDLESS, Faults, Kind, Scenario},
};

/// What a world remembers of a breach until the end (see [`crate::property`]).
pub mod broken {
    /// A torn record was read.
    pub const TORN: u16 = 1;
    /// A record was deleted whose daemon ran and was not the one that deleted it.
    pub const REMOVED: u16 = 2;
    /// The newest daemon stood down because another's clean-up had taken its record away.
    pub const COLLATERAL: u16 = 4;
    /// The record of a running daemon led to a closed port.
    pub const UNANSWERED: u16 = 8;
    /// A daemon that did not own the record said `ready`.
    pub const LOSER: u16 = 16;
    /// A credential was replaced.
    pub const CREDENTIAL: u16 = 32;
    /// A child displaced a ready daemon that was there before it was started.
    pub const CHURN: u16 = 64;
    /// A client was connected in the name of a daemon that does not run.
    pub const MISTAKEN: u16 = 128;
}

mod mark {
    pub(super) const LISTENING: u8 = 1;
    pub(super) const PAUSED: u8 = 2;
    pub(super) const CRASHED: u8 = 4;
    /// It has told its client that it is done: it published or yielded.
    pub(super) const SAID: u8 = 8;
    /// It was started while a ready and compatible daemon owned the record, and nothing has happened to that since.
    pub(super) const SPARES: u8 = 16;
    /// It has yet to listen (without the rule "listen first").
    pub(super) const DEAF: u8 = 32;
    /// It has opened the shared temporary file (without the rule of unique names).
    pub(super) const OPENED: u8 = 64;
}

/// A daemon's process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot {
    claim: Local,
    protocol: u8,
    port: u8,
    credential: u8,
    /// Whose record it took and has yet to put back (without the rule "leave it").
    took: u8,
    marks: u8,
}

/// Where a client is between its calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// There is none.
    Off,
    /// In a call.
    Calling,
    /// Connected to this daemon.
    Connected(u8),
    /// A supervisor about to start its daemon.
    Starting,
    /// A supervisor whose daemon runs.
    Watching,
    /// Its last call ended: too new or too old for the daemon.
    Incompatible,
    /// Its last call ended without a daemon.
    Failed,
    /// Its daemon left after its last call.
    Lost,
    /// Killed.
    Crashed,
}

/// A client's process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Client {
    phase: Phase,
    machine: Local,
    kind: u8,
    child: u8,
    calls: u8,
    paused: bool,
    /// Whose record it is about to remove, and whether it has compared (without the rule "clients do not remove").
    removing: u8,
    compared: bool,
}

/// Why there is no record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// There never was one, there is one, or its owner or a person took it off.
    Rightly,
    /// Another process did.
    Another,
}

/// Everything at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct World {
    slots: [Slot; DAEMONS],
    clients: [Client; CLIENTS],
    record: Content,
    /// The temporary file of the shared name.
    temporary: Content,
    /// Whose credential is in the file.
    credential: u8,
    /// The port where somebody without the credential listens.
    squatted: u8,
    /// For each id, whether a taken file holds it.
    taken: u8,
    /// The process that holds the lock.
    lock: u8,
    /// What may still go wrong.
    left: Faults,
    /// Who published last.
    last: u8,
    cause: Cause,
    /// The breaches of [`broken`].
    pub broken: u16,
    /// A daemon was wanted beyond the scenario's slots: outside the bound, not judged.
    spent: bool,
}

/// One step of somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A daemon's effect.
    Daemon(u8),
    /// It listens, and gets the dead daemon's port.
    Reuse(u8),
    /// A client's effect.
    Client(u8),
    /// Its wait for the lock ends in vain.
    LockTimeout(u8),
    /// The lock's second passes for the client that holds it.
    Second(u8),
    /// Its call's deadline passes.
    Expire(u8),
    /// SIGKILL; processes are numbered daemons first.
    Crash(u8),
    /// SIGSTOP.
    Pause(u8),
    /// SIGCONT.
    Resume(u8),
    /// SIGTERM to a daemon.
    Stop(u8),
    /// Somebody deletes the record.
    Remove,
}

impl Action {
    /// The process that makes this step of its own accord.
    pub fn mover(self) -> Option<u8> {
        match self {
            Self::Daemon(slot) | Self::Reuse(slot) => Some(slot),
            Self::Client(client)
            | Self::LockTimeout(client)
            | Self::Second(client)
            | Self::Expire(client) => Some(client_number(usize::from(client))),
            _ => None,
        }
    }

    /// Who is named in front of the line.
    pub fn who(self) -> String {
        match self {
            Self::Daemon(slot) | Self::Reuse(slot) | Self::Stop(slot) => format!("D{slot}"),
            Self::Client(client)
            | Self::LockTimeout(client)
            | Self::Second(client)
            | Self::Expire(client) => {
                format!("C{client}")
            }
            Self::Crash(process) | Self::Pause(process) | Self::Resume(process) => {
                match usize::from(process).checked_sub(DAEMONS) {
                    Some(client) => format!("C{client}"),
                    None => format!("D{process}"),
                }
            }
            Self::Remove => "user".to_owned(),
        }
    }
}

fn client_number(client: usize) -> u8 {
    number(DAEMONS + client)
}

fn number(index: usize) -> u8 {
    u8::try_from(index).expect("a handful of processes")
}

/// How still a world is: what remains possible without a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stillness {
    /// Somebody can move.
    Moving,
    /// Nobody can, and somebody is stopped.
    Paused,
    /// Nobody can.
    Settled,
}

/// What a step says of itself; nothing is written where nobody reads.
#[derive(Debug, Default)]
pub struct Log(Option<Vec<String>>);

impl Log {
    /// One that is read.
    pub fn kept() -> Self {
        Self(Some(Vec::new()))
    }

    /// What was said.
    pub fn said(self) -> String {
        self.0.unwrap_or_default().join(", ")
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            lines.push(what());
        }
    }
}

/// A scenario with its machines.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The scenario.
    pub scenario: Scenario,
    /// The machines.
    pub automaton: Arc<Automaton>,
    /// Which breaches are remembered.
    pub watched: u16,
}

impl Setting {
    /// A scenario with its machines, where the given breaches are remembered.
    pub fn new(scenario: Scenario, watched: u16) -> Self {
        Self {
            scenario,
            automaton: Automaton::of(scenario.alphabet()),
            watched,
        }
    }

    fn lacks(&self, rule: Deviation) -> bool {
        self.scenario.lacks(rule)
    }

    fn out(&self, local: Local) -> Out {
        self.automaton.out(local)
    }

    fn slots(&self) -> std::ops::Range<usize> {
        0..usize::from(self.scenario.slots)
    }

    fn clients(&self) -> std::ops::Range<usize> {
        0..self.scenario.clients.len()
    }

    /// The world at the start.
    pub fn initial(&self) -> World {
        let scenario = &self.scenario;
        let mut world = World {
            slots: std::array::from_fn(|slot| Slot {
                claim: OFF,
                protocol: 1,
                port: number(slot),
                credential: NONE,
                took: NONE,
                marks: 0,
            }),
            clients: [Client {
                phase: Phase::Off,
                machine: OFF,
                kind: 0,
                child: NONE,
                calls: scenario.calls,
                paused: false,
                removing: NONE,
                compared: false,
            }; CLIENTS],
            record: Content::Missing,
            temporary: Content::Missing,
            credential: NONE,
            squatted: if scenario.squatter { 0 } else { NONE },
            taken: 0,
            lock: NONE,
            left: scenario.faults,
            last: NONE,
            cause: Cause::Rightly,
            broken: 0,
            spent: false,
        };
        if scenario.stale {
            world.slots[0].claim = GONE;
            world.record = Content::Record(Record { id: 0, port: 0 });
        }
        for (index, protocol) in scenario.daemons.iter().enumerate() {
            let slot = index + usize::from(scenario.stale);
            self.launch(&mut world, slot, *protocol, false, &mut Log::default());
        }
        for index in self.clients() {
            let client = &mut world.clients[index];
            client.kind = number(
                scenario
                    .clients
                    .iter()
                    .position(|kind| *kind == scenario.clients[index])
                    .unwrap_or(index),
            );
            self.begin(client);
        }
        world
    }

    fn begin(&self, client: &mut Client) {
        (client.phase, client.machine) = match self.scenario.clients[usize::from(client.kind)] {
            Kind::Caller { protocol, .. } => {
                let root = Root::Call {
                    protocol,
                    spawn: true,
                    replace: self.lacks(Deviation::DisplaceBothWays),
                };
                (Phase::Calling, self.automaton.start(root))
            }
            Kind::Supervisor => (Phase::Starting, OFF),
        };
    }

    fn protocol(&self, client: &Client) -> u8 {
        match self.scenario.clients[usize::from(client.kind)] {
            Kind::Caller { protocol, .. } => protocol,
            Kind::Supervisor => 1,
        }
    }

    fn launch(&self, world: &mut World, slot: usize, protocol: u8, yields: bool, log: &mut Log) {
        let spares = yields
            && world.record.id().is_some_and(|owner| {
                world.slots[usize::from(owner)].protocol == protocol && self.is_ready(world, owner)
            });
        world.slots[slot] = Slot {
            claim: self.automaton.start(Root::Daemon {
                id: number(slot),
                protocol,
                yields: yields && !self.lacks(Deviation::ChildrenDoNotYield),
            }),
            protocol,
            port: number(slot),
            credential: NONE,
            took: NONE,
            marks: if spares { mark::SPARES } else { 0 },
        };
        self.settle(world, slot, None, log);
    }

    /// Whether a daemon that runs unhindered would answer `ready`.
    fn is_ready(&self, world: &World, daemon: u8) -> bool {
        let slot = &world.slots[usize::from(daemon)];
        slot.has(mark::LISTENING) && !slot.has(mark::PAUSED) && self.says_ready(world, usize::from(daemon))
    }

    fn says_ready(&self, world: &World, slot: usize) -> bool {
        let owns = world.record.id() == Some(number(slot)) || self.lacks(Deviation::ReadyUnseen);
        owns && self.out(world.slots[slot].claim).ready
    }

    fn is_running(&self, slot: &Slot) -> bool {
        self.out(slot.claim).want != Want::Nothing
    }

    /// Whether a daemon has begun to leave, or has left.
    fn leaves(&self, slot: &Slot) -> bool {
        !self.is_running(slot) || self.out(slot.claim).reason.is_some()
    }

    fn note(&self, world: &mut World, breach: u16) {
        world.broken |= breach & self.watched;
    }

    fn probe(&self, world: &mut World, record: Record, credential: u8) -> Answer {
        let found = self.slots().find(|slot| {
            let slot = &world.slots[*slot];
            slot.has(mark::LISTENING) && slot.port == record.port
        });
        let Some(found) = found else {
            if world.squatted == record.port {
                return Answer::Foreign;
            }
            let owner = &world.slots[usize::from(record.id)];
            if world.record == Content::Record(record) && self.is_running(owner) && !owner.has(mark::PAUSED) {
                self.note(world, broken::UNANSWERED);
            }
            return Answer::Refused;
        };
        let slot = world.slots[found];
        if slot.has(mark::PAUSED) {
            return Answer::TimedOut;
        }
        if slot.credential != credential {
            return Answer::Foreign;
        }
        let ready = self.says_ready(world, found);
        if ready && world.record.id() != Some(number(found)) {
            self.note(world, broken::LOSER);
        }
        let id = if self.lacks(Deviation::NoIdCheck) {
            record.id
        } else {
            number(found)
        };
        Answer::Proven {
            id,
            protocol: slot.protocol,
            ready,
        }
    }

    fn read(&self, world: &mut World) -> Letter {
        if world.record == Content::Torn {
            self.note(world, broken::TORN);
        }
        Letter::Read(world.record)
    }

    // ------------------------------------------------------------------------------------------------- daemons

    fn daemon(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
        let own = number(index);
        let slot = world.slots[index];
        if slot.has(mark::PAUSED) {
            return false;
        }
        if slot.has(mark::DEAF) && slot.has(mark::SAID) {
            world.slots[index].clear(mark::DEAF);
            world.slots[index].set(mark::LISTENING);
            log.say(|| "listens".to_owned());
            return true;
        }
        let out = self.out(slot.claim);
        let mut took = None;
        let letter = match out.want {
            Want::Await if self.lacks(Deviation::NoReread) => return false,
            Want::Await => {
                let woken = self.automaton.step(slot.claim, Letter::Done);
                if self.automaton.step(woken, Letter::Read(world.record)) == slot.claim {
                    return false;
                }
                world.slots[index].claim = woken;
                let letter = self.read(world);
                log.say(|| format!("re-reads the record: {}", content(world.record, own)));
                letter
            }
            Want::ReadRecord => {
                let stopping = out.reason == Some(Reason::Stopped);
                if stopping && self.lacks(Deviation::LockedRemoval) && !self.locks(world, own, log) {
                    return false;
                }
                let letter = self.read(world);
                log.say(|| format!("reads the record: {}", content(world.record, own)));
                letter
            }
            Want::Probe(record) => {
                let answer = self.probe(world, record, slot.credential);
                log.say(|| probed(record, answer));
                Letter::Probed(answer)
            }
            Want::Listen => {
                world.slots[index].set(mark::LISTENING);
                log.say(|| "listens".to_owned());
                Letter::Done
            }
            Want::ReadCredential => {
                world.slots[index].credential = world.credential;
                log.say(|| format!("reads the credential: {}", secret(world.credential, own)));
                if world.credential == NONE {
                    Letter::Missing
                } else {
                    Letter::Done
                }
            }
            Want::CreateCredential => {
                if world.credential == NONE || self.lacks(Deviation::OverwriteCredential) {
                    if world.credential != NONE {
                        self.note(world, broken::CREDENTIAL);
                    }
                    world.credential = own;
                    log.say(|| "puts its credential in place".to_owned());
                } else {
                    log.say(|| "leaves the credential that is there".to_owned());
                }
                Letter::Done
            }
            Want::WriteTemporary => {
                if !slot.has(mark::OPENED) {
                    world.slots[index].set(mark::OPENED);
                    world.temporary = Content::Torn;
                    log.say(|| "opens the temporary file, emptying it".to_owned());
                    return true;
                }
                world.slots[index].clear(mark::OPENED);
                // What it opened may have been renamed into place by another.
                let mine = Content::Record(Record {
                    id: own,
                    port: slot.port,
                });
                if world.temporary != Content::Missing {
                    world.temporary = mine;
                } else if world.record == Content::Torn {
                    world.record = mine;
                }
                log.say(|| "writes its record into it".to_owned());
                Letter::Done
            }
            Want::Publish => {
                if self.lacks(Deviation::LockedRemoval) {
                    if !self.locks(world, own, log) {
                        return false;
                    }
                }
                let letter = self.publish(world, index, log);
                world.release(own);
                letter
            }
            Want::ListTaken => {
                let found = world.taken & (1 << own) != 0 && !self.lacks(Deviation::NoReclaim);
                let seen = if found { "one" } else { "none" };
                log.say(|| format!("looks for a taken file that holds its id: {seen}"));
                Letter::Taken(found)
            }
            Want::Take => self.take(world, index, &mut took, log),
            Want::ReadTaken => {
                let theirs = slot.took;
                world.slots[index].took = NONE;
                if world.taken & (1 << theirs) != 0 {
                    world.taken &= !(1 << theirs);
                    let port = world.slots[usize::from(theirs)].port;
                    world.record = Content::Record(Record { id: theirs, port });
                    world.cause = Cause::Rightly;
                }
                let record = Content::Record(Record {
                    id: theirs,
                    port: theirs,
                });
                log.say(|| format!("reads what it took: {}, and puts it back", content(record, own)));
                Letter::Read(record)
            }
            Want::Close => {
                world.slots[index].clear(mark::LISTENING);
                world.release(own);
                log.say(|| match out.reason {
                    Some(reason) => format!("exits ({})", reason.as_str()),
                    None => "exits".to_owned(),
                });
                Letter::Done
            }
            _ => return false,
        };
        self.told(world, index, letter, took, log);
        true
    }

    fn told(&self, world: &mut World, index: usize, letter: Letter, took: Option<Content>, log: &mut Log) {
        let own = number(index);
        let before = self.out(world.slots[index].claim);
        let claim = self.automaton.step(world.slots[index].claim, letter);
        world.slots[index].claim = claim;
        let after = self.out(claim);
        let removed = before.reason.is_none() && after.reason == Some(Reason::RecordRemoved);
        if removed && world.last == own && world.cause == Cause::Another {
            self.note(world, broken::COLLATERAL);
        }
        if after.reason == Some(Reason::Yielded) {
            world.slots[index].set(mark::SAID);
        }
        if before.want == Want::ReadRecord && after.want != Want::Take {
            world.release(own);
        }
        self.settle(world, index, took, log);
    }

    /// Does what no other process can tell.
    fn settle(&self, world: &mut World, index: usize, took: Option<Content>, log: &mut Log) {
        let own = number(index);
        loop {
            let slot = world.slots[index];
            let letter = match self.out(slot.claim).want {
                Want::Listen if self.lacks(Deviation::PublishFirst) => {
                    world.slots[index].set(mark::DEAF);
                    Letter::Done
                }
                Want::Listen if !self.scenario.reuse => {
                    world.slots[index].set(mark::LISTENING);
                    Letter::Done
                }
                Want::ReadCredential if !self.scenario.first_launch => Letter::Done,
                Want::WriteTemporary if !self.lacks(Deviation::SharedTemporary) => Letter::Done,
                Want::DropTemporary => {
                    if self.lacks(Deviation::SharedTemporary) {
                        world.temporary = Content::Missing;
                    }
                    Letter::Done
                }
                Want::UnlinkTaken => {
                    world.taken &= !(1 << own);
                    log.say(|| "unlinks it".to_owned());
                    Letter::Done
                }
                Want::ReadTaken => match took {
                    Some(taken) => Letter::Read(taken),
                    None => return,
                },
                Want::UnlinkOwn | Want::Drain => Letter::Done,
                Want::Nothing => {
                    let slot = &mut world.slots[index];
                    slot.marks &= mark::SAID;
                    slot.credential = NONE;
                    return;
                }
                _ => return,
            };
            world.slots[index].claim = self.automaton.step(slot.claim, letter);
        }
    }

    fn publish(&self, world: &mut World, index: usize, log: &mut Log) -> Letter {
        let own = number(index);
        let content = if self.lacks(Deviation::SharedTemporary) {
            if world.temporary == Content::Missing {
                log.say(|| "finds its temporary file gone".to_owned());
                return Letter::Failed;
            }
            std::mem::replace(&mut world.temporary, Content::Missing)
        } else {
            Content::Record(Record {
                id: own,
                port: world.slots[index].port,
            })
        };
        if world.slots[index].has(mark::SPARES) && world.record.id().is_some_and(|owner| owner != own) {
            self.note(world, broken::CHURN);
        }
        world.unspare();
        world.record = content;
        world.last = own;
        world.cause = Cause::Rightly;
        world.slots[index].set(mark::SAID);
        log.say(|| "renames its record into place".to_owned());
        Letter::Done
    }

    fn take(&self, world: &mut World, index: usize, took: &mut Option<Content>, log: &mut Log) -> Letter {
        let own = number(index);
        let unlinks = self.lacks(Deviation::LiteralRemoval) || self.lacks(Deviation::LockedRemoval);
        let found = std::mem::replace(&mut world.record, Content::Missing);
        if found == Content::Missing {
            log.say(|| "finds no record to take".to_owned());
            return Letter::Missing;
        }
        world.unspare();
        world.cause = Cause::Rightly;
        *took = Some(found);
        if let Some(theirs) = found.id().filter(|id| *id != own) {
            world.cause = Cause::Another;
            if unlinks {
                self.note_removal(world, theirs);
            } else {
                world.taken |= 1 << theirs;
            }
            if self.lacks(Deviation::PutBack) {
                world.slots[index].took = theirs;
                *took = None;
            }
        }
        if unlinks {
            world.release(own);
            log.say(|| format!("unlinks the record: {}", content(found, own)));
            // It believes that it was its own.
            *took = Some(Content::Record(Record { id: own, port: own }));
        } else {
            log.say(|| format!("renames the record to its taken name: {}", content(found, own)));
        }
        Letter::Done
    }

    fn note_removal(&self, world: &mut World, theirs: u8) {
        if self.is_running(&world.slots[usize::from(theirs)]) {
            self.note(world, broken::REMOVED);
        }
    }

    /// Takes the lock, or goes on without it where a stopped process holds it; waits otherwise.
    fn locks(&self, world: &mut World, process: u8, log: &mut Log) -> bool {
        if world.lock == NONE {
            world.lock = process;
            log.say(|| "takes the lock".to_owned());
        } else if world.is_paused(world.lock) {
            log.say(|| "waits for the lock in vain".to_owned());
        } else {
            return world.lock == process;
        }
        true
    }

    // ------------------------------------------------------------------------------------------------- clients

    fn client(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
        let client = world.clients[index];
        if client.paused {
            return false;
        }
        match client.phase {
            Phase::Calling if client.removing != NONE => {
                self.remove(world, index, log);
                true
            }
            Phase::Calling => self.call(world, index, log),
            Phase::Connected(daemon) if self.leaves(&world.slots[usize::from(daemon)]) => {
                log.say(|| format!("learns that D{daemon} is leaving"));
                self.begin(&mut world.clients[index]);
                true
            }
            Phase::Starting => {
                self.spawn(world, index, false, log);
                world.clients[index].phase = Phase::Watching;
                true
            }
            Phase::Watching => self.watch(world, index, log),
            _ => false,
        }
    }

    fn watch(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
        let child = world.clients[index].child;
        let slot = world.slots[usize::from(child)];
        if self.is_running(&slot) {
            return false;
        }
        let reason = self.out(slot.claim).reason;
        let client = &mut world.clients[index];
        client.child = NONE;
        match reason {
            Some(Reason::Displaced) if !self.lacks(Deviation::RestartDisplaced) => {
                log.say(|| format!("sees that D{child} was displaced, and connects"));
                client.phase = Phase::Calling;
                client.machine = self.automaton.start(Root::Call {
                    protocol: 1,
                    spawn: false,
                    replace: false,
                });
            }
            None | Some(Reason::Displaced | Reason::Failed) => {
                log.say(|| format!("sees that D{child} is gone, and starts it again"));
                client.phase = Phase::Starting;
            }
            Some(_) => client.phase = Phase::Lost,
        }
        true
    }

    fn spawn(&self, world: &mut World, index: usize, yields: bool, log: &mut Log) {
        let free = self.slots().find(|slot| world.slots[*slot].claim == OFF);
        let Some(slot) = free else {
            world.spent = true;
            return;
        };
        world.clients[index].child = number(slot);
        let protocol = self.protocol(&world.clients[index]);
        let told = if yields && !self.lacks(Deviation::ChildrenDoNotYield) {
            ", told to yield"
        } else {
            ""
        };
        log.say(|| format!("starts D{slot}{told}"));
        self.launch(world, slot, protocol, yields, &mut Log::default());
    }

    fn remove(&self, world: &mut World, index: usize, log: &mut Log) {
        let Client {
            removing, compared, ..
        } = world.clients[index];
        if !compared {
            let same = world.record.id() == Some(removing);
            log.say(|| format!("reads the record once more: {}", content(world.record, NONE)));
            world.clients[index].compared = same;
            if !same {
                world.clients[index].removing = NONE;
            }
            return;
        }
        log.say(|| format!("unlinks the record: {}", content(world.record, NONE)));
        if let Some(theirs) = world.record.id() {
            world.cause = Cause::Another;
            self.note_removal(world, theirs);
        }
        world.unspare();
        world.record = Content::Missing;
        world.clients[index].removing = NONE;
        world.clients[index].compared = false;
    }

    fn call(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
        let client = world.clients[index];
        let letter = match self.out(client.machine).want {
            Want::ReadRecord => {
                log.say(|| format!("reads the record: {}", content(world.record, NONE)));
                self.read(world)
            }
            Want::Probe(record) => {
                let answer = self.client_probe(world, record);
                log.say(|| probed(record, answer));
                if self.lacks(Deviation::ClientsRemove)
                    && matches!(answer, Answer::Refused | Answer::TimedOut)
                {
                    world.clients[index].removing = record.id;
                }
                Letter::Probed(answer)
            }
            Want::Lock => {
                let ignores = matches!(
                    self.scenario.clients[usize::from(client.kind)],
                    Kind::Caller {
                        ignores_lock: true,
                        ..
                    }
                );
                if ignores {
                    log.say(|| "does not ask for the lock".to_owned());
                } else if world.lock == NONE {
                    world.lock = client_number(index);
                    log.say(|| "takes the lock".to_owned());
                } else {
                    return false;
                }
                world.clients[index].machine = self.automaton.step(client.machine, Letter::Locked(!ignores));
                return self.call(world, index, log);
            }
            Want::Spawn => {
                self.spawn(world, index, true, log);
                Letter::Spawned
            }
            Want::Await => return self.wakes(world, index, false, log),
            _ => return false,
        };
        self.hears(world, index, letter, log);
        true
    }

    fn client_probe(&self, world: &mut World, record: Record) -> Answer {
        if self.scenario.first_launch && world.credential == NONE {
            return Answer::NoCredential;
        }
        self.probe(world, record, world.credential)
    }

    /// A waiting client wakes and reads, if that leads anywhere.
    fn wakes(&self, world: &mut World, index: usize, second: bool, log: &mut Log) -> bool {
        let client = world.clients[index];
        let child = match client.child {
            NONE => Child::Silent,
            child => {
                let slot = &world.slots[usize::from(child)];
                if slot.has(mark::SAID) {
                    Child::Done
                } else if self.is_running(slot) {
                    Child::Silent
                } else {
                    Child::Failed
                }
            }
        };
        if second && self.automaton.out(client.machine).want != Want::Await {
            return false;
        }
        let woken = self.automaton.step(client.machine, Letter::Woken(child, second));
        let read = self.automaton.step(woken, Letter::Read(world.record));
        let mut end = read;
        while let Want::Probe(record) = self.out(end).want {
            let answer = self.client_probe(&mut world.clone(), record);
            end = self.automaton.step(end, Letter::Probed(answer));
        }
        if end == client.machine {
            return false;
        }
        world.clients[index].machine = woken;
        let letter = self.read(world);
        log.say(|| {
            let child = match child {
                Child::Silent => "",
                Child::Done => " (its child is done)",
                Child::Failed => " (its child failed)",
            };
            format!(
                "wakes{child} and reads the record: {}",
                content(world.record, NONE)
            )
        });
        self.hears(world, index, letter, log);
        true
    }

    fn hears(&self, world: &mut World, index: usize, letter: Letter, log: &mut Log) {
        let mut machine = self.automaton.step(world.clients[index].machine, letter);
        if self.out(machine).want == Want::Unlock {
            world.release(client_number(index));
            log.say(|| "gives the lock back".to_owned());
            machine = self.automaton.step(machine, Letter::Unlocked);
        }
        let client = &mut world.clients[index];
        client.machine = machine;
        let Some(end) = self.out(machine).end else {
            return;
        };
        client.machine = OFF;
        client.child = NONE;
        if client.calls != ENDLESS {
            client.calls = client.calls.saturating_sub(1);
        }
        client.phase = match end {
            End::Ready(daemon) => {
                log.say(|| format!("is connected to D{daemon}"));
                if !self.is_running(&world.slots[usize::from(daemon)]) {
                    world.broken |= broken::MISTAKEN & self.watched;
                }
                Phase::Connected(daemon)
            }
            End::Not(outcome) => {
                log.say(|| format!("ends: {outcome}"));
                if outcome == "incompatible" {
                    Phase::Incompatible
                } else {
                    Phase::Failed
                }
            }
        };
    }

    // ------------------------------------------------------------------------------------------------- steps

    /// Performs an action, where it is possible and changes something.
    pub fn act(&self, world: &mut World, action: Action, log: &mut Log) -> bool {
        let done = self.perform(world, action, log);
        if done {
            self.tidy(world);
        }
        done
    }

    fn perform(&self, world: &mut World, action: Action, log: &mut Log) -> bool {
        match action {
            Action::Daemon(slot) => self.daemon(world, usize::from(slot), log),
            Action::Reuse(slot) => self.reuse(world, usize::from(slot), log),
            Action::Client(client) => self.client(world, usize::from(client), log),
            Action::LockTimeout(client) => {
                let client = usize::from(client);
                let waits = self.out(world.clients[client].machine).want == Want::Lock;
                if !waits || world.clients[client].paused || world.lock == NONE {
                    return false;
                }
                log.say(|| "waits for the lock in vain".to_owned());
                let machine = self
                    .automaton
                    .step(world.clients[client].machine, Letter::Locked(false));
                world.clients[client].machine = machine;
                self.call(world, client, log)
            }
            Action::Second(client) => {
                let index = usize::from(client);
                let holds = world.lock == client_number(index);
                holds && !world.clients[index].paused && self.wakes(world, index, true, log)
            }
            Action::Expire(client) => {
                let index = usize::from(client);
                let client = world.clients[index];
                let want = self.out(client.machine).want;
                if client.phase != Phase::Calling || client.paused || want == Want::Nothing {
                    return false;
                }
                log.say(|| "reaches its deadline".to_owned());
                world.clients[index].removing = NONE;
                self.hears(world, index, Letter::Expire, log);
                true
            }
            Action::Crash(process) => {
                log.say(|| "is killed".to_owned());
                world.left.crash -= 1;
                self.crash(world, process);
                true
            }
            Action::Pause(process) => {
                log.say(|| "is stopped (SIGSTOP)".to_owned());
                world.left.pause -= 1;
                world.unspare();
                world.set_paused(process, true);
                true
            }
            Action::Resume(process) => {
                log.say(|| "goes on (SIGCONT)".to_owned());
                world.set_paused(process, false);
                true
            }
            Action::Stop(slot) => {
                log.say(|| "is asked to stop (SIGTERM)".to_owned());
                world.left.stop -= 1;
                world.unspare();
                let index = usize::from(slot);
                let claim = self.automaton.step(world.slots[index].claim, Letter::Stop);
                world.slots[index].claim = claim;
                if self.out(claim).want == Want::Await {
                    self.told(world, index, Letter::Done, None, log);
                }
                true
            }
            Action::Remove => {
                log.say(|| "deletes the record".to_owned());
                world.left.remove -= 1;
                world.unspare();
                world.record = Content::Missing;
                world.cause = Cause::Rightly;
                true
            }
        }
    }

    fn reuse(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
        let slot = world.slots[index];
        let Content::Record(Record { port, .. }) = world.record else {
            return false;
        };
        let taken = world
            .slots
            .iter()
            .any(|other| other.has(mark::LISTENING) && other.port == port);
        let wants = self.out(slot.claim).want == Want::Listen && !slot.has(mark::PAUSED);
        if !self.scenario.reuse || !wants || taken || port == slot.port {
            return false;
        }
        world.slots[index].port = port;
        world.slots[index].set(mark::LISTENING);
        log.say(|| "listens, on the port of the stale record".to_owned());
        self.told(world, index, Letter::Done, None, log);
        true
    }

    fn crash(&self, world: &mut World, process: u8) {
        world.release(process);
        world.unspare();
        let index = usize::from(process);
        if index < DAEMONS {
            let slot = &mut world.slots[index];
            slot.claim = GONE;
            slot.credential = NONE;
            slot.took = NONE;
            slot.marks = slot.marks & mark::SAID | mark::CRASHED;
        } else {
            let client = &mut world.clients[index - DAEMONS];
            client.phase = Phase::Crashed;
            client.machine = OFF;
            client.child = NONE;
            client.paused = false;
            client.removing = NONE;
        }
    }

    /// Forgets of processes that have gone what can no longer matter, so that worlds that behave alike are one.
    fn tidy(&self, world: &mut World) {
        for index in self.clients() {
            let Client { phase, calls, .. } = world.clients[index];
            // Nobody can tell when one learns it that does not connect again.
            let left =
                matches!(phase, Phase::Connected(daemon) if self.leaves(&world.slots[usize::from(daemon)]));
            if left && calls == 0 {
                world.clients[index].phase = Phase::Lost;
            }
        }
        for index in self.slots() {
            let own = number(index);
            let is_child = world.clients.iter().any(|client| client.child == own);
            if !is_child {
                world.slots[index].clear_unless(mark::SAID, world.slots[index].has(mark::DEAF));
            }
            let slot = world.slots[index];
            if slot.claim == OFF || self.is_running(&slot) || world.last == own || is_child {
                continue;
            }
            let slot = &mut world.slots[index];
            slot.claim = GONE;
            slot.protocol = 1;
            slot.port = own;
            slot.marks = 0;
            if self.scenario.recycled && !self.is_referred_to(world, own) {
                world.slots[index].claim = OFF;
            }
        }
    }

    fn is_referred_to(&self, world: &World, daemon: u8) -> bool {
        let mentions = |local: Local| self.automaton.mentions(local, daemon);
        let by_slot = |slot: &Slot| self.is_running(slot) && mentions(slot.claim);
        let by_client =
            |client: &Client| client.phase == Phase::Connected(daemon) || mentions(client.machine);
        world.record.id() == Some(daemon)
            || world.last == daemon
            || world.taken & (1 << daemon) != 0
            || world.slots[..].iter().any(by_slot)
            || world.clients.iter().any(by_client)
    }

    /// What can come next. Nothing comes after a breach, and nothing outside the bound.
    pub fn successors(&self, world: &World, found: &mut Vec<(Action, World)>) -> Stillness {
        found.clear();
        let mut attempt = |action: Action| {
            let mut next = *world;
            if self.act(&mut next, action, &mut Log::default()) {
                found.push((action, next));
                true
            } else {
                false
            }
        };
        let mut moving = false;
        for slot in self.slots().map(number) {
            moving |= attempt(Action::Daemon(slot));
            moving |= attempt(Action::Reuse(slot));
        }
        for client in self.clients().map(number) {
            moving |= attempt(Action::Client(client));
        }
        let paused = world.any_paused();
        let still = !moving;
        for client in self.clients().map(number) {
            if still || (world.lock != NONE && world.is_paused(world.lock)) {
                moving |= attempt(Action::LockTimeout(client));
            }
            if still || paused {
                moving |= attempt(Action::Second(client));
            }
        }
        if !moving || self.scenario.hurried {
            let mut expired = false;
            for client in self.clients().map(number) {
                expired |= attempt(Action::Expire(client));
            }
            moving |= expired;
        }
        let running = |slot: usize| self.is_running(&world.slots[slot]);
        for slot in self.slots().filter(|slot| running(*slot)) {
            let here = world.slots[slot];
            if world.left.crash > 0 {
                attempt(Action::Crash(number(slot)));
            }
            if here.has(mark::PAUSED) {
                attempt(Action::Resume(number(slot)));
                continue;
            }
            if world.left.pause > 0 {
                attempt(Action::Pause(number(slot)));
            }
            if world.left.stop > 0 && self.out(here.claim).reason.is_none() {
                attempt(Action::Stop(number(slot)));
            }
        }
        for client in self.clients() {
            let here = world.clients[client];
            let process = client_number(client);
            if here.paused {
                attempt(Action::Resume(process));
            }
            let busy = here.phase == Phase::Calling && self.scenario.frail_clients;
            if busy && world.left.crash > 0 {
                attempt(Action::Crash(process));
            }
            if busy && world.left.pause > 0 && !here.paused {
                attempt(Action::Pause(process));
            }
        }
        if world.left.remove > 0 && world.record != Content::Missing {
            attempt(Action::Remove);
        }
        match (moving, paused) {
            (true, _) => Stillness::Moving,
            (false, true) => Stillness::Paused,
            (false, false) => Stillness::Settled,
        }
    }

    // ------------------------------------------------------------------------------------------------- symmetry

    /// One representative of all worlds that are the same but for the names of daemons and clients.
    pub fn canonical(&self, world: &World) -> World {
        let count = usize::from(self.scenario.slots);
        let mut order = [0, 1, 2, 3, 4];
        let mut keys = [(0, 0, 0, 0, 0); DAEMONS];
        for (slot, key) in keys.iter_mut().enumerate().take(count) {
            *key = self.slot_key(world, number(slot));
        }
        order[..count].sort_by_key(|slot: &usize| keys[*slot]);
        let mut names: [u8; IDS] = [0, 1, 2, 3, 4, 5];
        for (new, old) in order.iter().enumerate() {
            names[*old] = number(new);
        }
        let mut world = self.renamed(world, &names);
        if self.clients().len() > 1 {
            let lock = world.lock;
            let mut by: [usize; CLIENTS] = [0, 1, 2];
            by[..self.scenario.clients.len()]
                .sort_by_key(|client| (world.clients[*client], lock == client_number(*client)));
            world.clients = by.map(|client| world.clients[client]);
            if let Some(holder) = usize::from(lock).checked_sub(DAEMONS).filter(|_| lock != NONE) {
                let place = by.iter().position(|client| *client == holder);
                world.lock = client_number(place.expect("a client of this world"));
            }
        }
        world
    }

    fn slot_key(&self, world: &World, daemon: u8) -> (Local, u8, u8, u8, u8) {
        let slot = &world.slots[usize::from(daemon)];
        let owns = matches!(world.record, Content::Record(record) if record.id == daemon);
        let tied = u8::from(owns)
            | u8::from(world.last == daemon) << 1
            | u8::from(world.lock == daemon) << 2
            | u8::from(world.credential == daemon) << 3
            | u8::from(world.squatted == daemon) << 4
            | (world.taken >> daemon & 1) << 5;
        let mut children = 0;
        let mut peers = 0;
        for client in &world.clients {
            children += u8::from(client.child == daemon);
            peers += u8::from(client.phase == Phase::Connected(daemon));
            children += u8::from(self.automaton.mentions(client.machine, daemon)) << 4;
        }
        (
            self.automaton.orbit(slot.claim),
            slot.marks,
            slot.protocol,
            tied,
            children << 2 | peers,
        )
    }

    fn renamed(&self, world: &World, names: &[u8; IDS]) -> World {
        let by = rank(names, usize::from(self.scenario.slots));
        if by == 0 {
            return *world;
        }
        let name = |daemon: u8| {
            if usize::from(daemon) < DAEMONS {
                names[usize::from(daemon)]
            } else {
                daemon
            }
        };
        let content = |content: Content| match content {
            Content::Record(record) => Content::Record(Record {
                id: name(record.id),
                port: name(record.port),
            }),
            other => other,
        };
        let mut renamed = *world;
        for (old, slot) in world.slots.iter().enumerate() {
            renamed.slots[usize::from(names[old])] = Slot {
                claim: self.automaton.renamed(slot.claim, by),
                port: name(slot.port),
                credential: name(slot.credential),
                took: name(slot.took),
                ..*slot
            };
        }
        for client in &mut renamed.clients {
            client.machine = self.automaton.renamed(client.machine, by);
            client.child = name(client.child);
            client.removing = name(client.removing);
            if let Phase::Connected(daemon) = &mut client.phase {
                *daemon = name(*daemon);
            }
        }
        renamed.record = content(world.record);
        renamed.temporary = content(world.temporary);
        renamed.credential = name(world.credential);
        renamed.squatted = name(world.squatted);
        renamed.lock = name(world.lock);
        renamed.last = name(world.last);
        renamed.taken = (0..DAEMONS).fold(0, |taken, old| taken | (world.taken >> old & 1) << names[old]);
        renamed
    }

    // ------------------------------------------------------------------------------------------------- questions

    /// Whether what follows is outside the scenario's bound.
    pub fn is_spent(&self, world: &World) -> bool {
        world.spent
    }

    /// Whether nothing has gone wrong.
    pub fn is_faultless(&self, world: &World) -> bool {
        world.left == self.scenario.faults && !self.scenario.hurried
    }

    /// The protocol number of each client, with where it is.
    pub fn protocols<'a>(&'a self, world: &'a World) -> impl Iterator<Item = (u8, Phase)> + 'a {
        let clients = &world.clients[..self.scenario.clients.len()];
        clients.iter().map(|client| (self.protocol(client), client.phase))
    }

    /// The daemons that run.
    pub fn running(&self, world: &World) -> Vec<u8> {
        let runs = |slot: &u8| self.is_running(&world.slots[usize::from(*slot)]);
        self.slots().map(number).filter(runs).collect()
    }

    /// Whose id stands in the record.
    pub fn owner(&self, world: &World) -> Option<u8> {
        world.record.id()
    }

    /// The daemon that published last, unless it was killed, asked to stop, or a person deleted its record.
    pub fn heir(&self, world: &World) -> Option<u8> {
        let last = Some(world.last).filter(|last| *last != NONE)?;
        let slot = &world.slots[usize::from(last)];
        let rightly_gone = match self.out(slot.claim).reason {
            Some(Reason::Stopped) => true,
            Some(Reason::RecordRemoved) => world.cause == Cause::Rightly,
            _ => false,
        };
        (!rightly_gone && !slot.has(mark::CRASHED)).then_some(last)
    }

    /// Where a fresh connect of this protocol leads, by the crate's own machine.
    pub fn connects(&self, world: &World, protocol: u8) -> Option<End> {
        let mut machine = self.automaton.start(Root::Call {
            protocol,
            spawn: false,
            replace: false,
        });
        loop {
            let out = self.out(machine);
            let letter = match out.want {
                Want::ReadRecord => Letter::Read(world.record),
                Want::Probe(record) => Letter::Probed(self.client_probe(&mut world.clone(), record)),
                Want::Nothing => return out.end,
                _ => return None,
            };
            machine = self.automaton.step(machine, letter);
        }
    }

    /// A daemon's protocol number.
    pub fn protocol_of(&self, world: &World, daemon: u8) -> u8 {
        world.slots[usize::from(daemon)].protocol
    }

    /// Whether a daemon has the credential that is in the file.
    pub fn has_credential(&self, world: &World, daemon: u8) -> bool {
        world.slots[usize::from(daemon)].credential == world.credential
    }

    /// Where each client is.
    pub fn phases<'a>(&'a self, world: &'a World) -> impl Iterator<Item = Phase> + 'a {
        world.clients[..self.scenario.clients.len()]
            .iter()
            .map(|client| client.phase)
    }

    /// Whose record the world shows, for a reader of a trace.
    pub fn record(&self, world: &World) -> String {
        match world.record {
            Content::Missing => "-".to_owned(),
            Content::Torn => "torn".to_owned(),
            Content::Record(record) => format!("D{}", record.id),
        }
    }
}

impl Slot {
    fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    fn set(&mut self, mark: u8) {
        self.marks |= mark;
    }

    fn clear(&mut self, mark: u8) {
        self.marks &= !mark;
    }

    fn clear_unless(&mut self, mark: u8, keep: bool) {
        if !keep {
            self.clear(mark);
        }
    }
}

impl World {
    fn release(&mut self, process: u8) {
        if self.lock == process {
            self.lock = NONE;
        }
    }

    fn is_paused(&self, process: u8) -> bool {
        let index = usize::from(process);
        match index.checked_sub(DAEMONS) {
            Some(client) => self.clients[client].paused,
            None => self.slots[index].has(mark::PAUSED),
        }
    }

    fn set_paused(&mut self, process: u8, paused: bool) {
        let index = usize::from(process);
        match index.checked_sub(DAEMONS) {
            Some(client) => self.clients[client].paused = paused,
            None if paused => self.slots[index].set(mark::PAUSED),
            None => self.slots[index].clear(mark::PAUSED),
        }
    }

    fn any_paused(&self) -> bool {
        self.slots.iter().any(|slot| slot.has(mark::PAUSED))
            || self.clients.iter().any(|client| client.paused)
    }

    /// What a child was started beside is no longer as it was.
    fn unspare(&mut self) {
        for slot in &mut self.slots {
            slot.clear(mark::SPARES);
        }
    }
}

fn content(content: Content, own: u8) -> String {
    match content {
        Content::Missing => "none".to_owned(),
        Content::Torn => "half of one".to_owned(),
        Content::Record(record) if record.id == own => "its own".to_owned(),
        Content::Record(record) => format!("D{}'s", record.id),
    }
}

fn probed(record: Record, answer: Answer) -> String {
    let what = match answer {
        Answer::Refused => "refused".to_owned(),
        Answer::TimedOut => "no answer in time".to_owned(),
        Answer::Foreign => "not proven".to_owned(),
        Answer::NoCredential => "there is no credential".to_owned(),
        Answer::Proven { id, protocol, ready } => {
            let state = if ready { "ready" } else { "draining" };
            let id = if id == record.id {
                String::new()
            } else {
                format!("D{id} ")
            };
            format!("{id}{state}, acme/{protocol}")
        }
    };
    format!("probes D{}: {what}", record.id)
}

fn secret(credential: u8, own: u8) -> String {
    match credential {
        NONE => "none".to_owned(),
        credential if credential == own => "its own".to_owned(),
        credential => format!("D{credential}'s"),
    }
}
