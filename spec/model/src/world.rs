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

use std::sync::Arc;

use crate::automaton::{Automaton, GONE, Local, OFF};
use crate::machine::{Answer, Content, DAEMONS, Letter, NONE, Out, Record, Root, Want};
use crate::scenario::{CLIENTS, Deviation, Faults, Kind, Scenario};

mod action;
mod client;
mod daemon;
mod questions;
mod successors;
mod symmetry;
mod words;

pub use self::action::Action;
pub use self::successors::Stillness;

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
    pub(super) const LISTENING: u16 = 1;
    pub(super) const PAUSED: u16 = 2;
    pub(super) const CRASHED: u16 = 4;
    /// It has told its client that it is done: it published or yielded.
    pub(super) const SAID: u16 = 8;
    /// It was started while a ready and compatible daemon owned the record, and nothing has happened to that since.
    pub(super) const SPARES: u16 = 16;
    /// It has yet to listen (without the rule "listen first").
    pub(super) const DEAF: u16 = 32;
    /// It has opened the shared temporary file (without the rule of unique names).
    pub(super) const OPENED: u16 = 64;
    /// It runs in the sandbox, and its record says so also when it is gone.
    pub(super) const SANDBOXED: u16 = 128;
    /// It has published, and holds the life lock until it ends (if there is a sandbox).
    pub(super) const ALIVE: u16 = 256;
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
    marks: u16,
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
    /// Its last call ended: the daemon runs in another network namespace.
    Unreachable,
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

fn client_number(client: usize) -> u8 {
    number(DAEMONS + client)
}

fn number(index: usize) -> u8 {
    u8::try_from(index).expect("a handful of processes")
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
        Self { scenario, automaton: Automaton::of(scenario.alphabet()), watched }
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
            let sandboxed = index < usize::from(scenario.sandboxed);
            self.launch(&mut world, slot, *protocol, false, sandboxed, &mut Log::default());
        }
        for index in self.clients() {
            // Equal clients bear the same number, so that they can stand for each other.
            let kinds = scenario.clients;
            let kind = kinds.iter().position(|kind| *kind == kinds[index]).unwrap_or(index);
            world.clients[index].kind = number(kind);
            self.begin(&mut world.clients[index]);
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

    fn is_sandboxed(&self, client: &Client) -> bool {
        let kind = self.scenario.clients[usize::from(client.kind)];
        matches!(kind, Kind::Caller { sandboxed: true, .. })
    }

    fn launch(
        &self,
        world: &mut World,
        slot: usize,
        protocol: u8,
        yields: bool,
        sandboxed: bool,
        log: &mut Log,
    ) {
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
            marks: if spares { mark::SPARES } else { 0 } | if sandboxed { mark::SANDBOXED } else { 0 },
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

    fn is_running(&self, slot: Slot) -> bool {
        self.out(slot.claim).want != Want::Nothing
    }

    /// Whether a daemon has begun to leave, or has left.
    fn leaves(&self, slot: Slot) -> bool {
        !self.is_running(slot) || self.out(slot.claim).reason.is_some()
    }

    fn note(&self, world: &mut World, breach: u16) {
        world.broken |= breach & self.watched;
    }

    /// What a process of the sandbox, or outside of it, sees of the record's daemon.
    fn probe(&self, world: &mut World, record: Record, credential: u8, sandboxed: bool) -> Answer {
        if world.slots[usize::from(record.id)].has(mark::SANDBOXED) != sandboxed {
            let is_held = world.slots.iter().any(|slot| slot.has(mark::ALIVE));
            let may_live = is_held || self.lacks(Deviation::NoLifeLock);
            let is_gone = !may_live || self.lacks(Deviation::UnreachableIsGone);
            return if is_gone { Answer::Refused } else { Answer::Unreachable };
        }
        let found = self.slots().find(|slot| {
            let slot = &world.slots[*slot];
            slot.has(mark::LISTENING) && slot.port == record.port
        });
        let Some(found) = found else {
            if world.squatted == record.port {
                return Answer::Foreign;
            }
            let owner = world.slots[usize::from(record.id)];
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
        let id = if self.lacks(Deviation::NoIdCheck) { record.id } else { number(found) };
        Answer::Proven { id, protocol: slot.protocol, ready }
    }

    fn read(&self, world: &mut World) -> Letter {
        if world.record == Content::Torn {
            self.note(world, broken::TORN);
        }
        Letter::Read(world.record)
    }
}

impl Slot {
    fn has(self, mark: u16) -> bool {
        self.marks & mark != 0
    }

    fn set(&mut self, mark: u16) {
        self.marks |= mark;
    }

    fn clear(&mut self, mark: u16) {
        self.marks &= !mark;
    }
}

impl World {
    /// Takes the lock, or goes on without it where a stopped process holds it; waits otherwise.
    fn locks(&mut self, process: u8, log: &mut Log) -> bool {
        if self.lock == NONE {
            self.lock = process;
            log.say(|| "takes the lock".to_owned());
        } else if self.is_paused(self.lock) {
            log.say(|| "waits for the lock in vain".to_owned());
        } else {
            return self.lock == process;
        }
        true
    }

    fn crash(&mut self, process: u8) {
        self.release(process);
        self.unspare();
        let index = usize::from(process);
        if index < DAEMONS {
            let slot = &mut self.slots[index];
            slot.claim = GONE;
            slot.credential = NONE;
            slot.took = NONE;
            slot.marks = slot.marks & (mark::SAID | mark::SANDBOXED) | mark::CRASHED;
        } else {
            let client = &mut self.clients[index - DAEMONS];
            client.phase = Phase::Crashed;
            client.machine = OFF;
            client.child = NONE;
            client.paused = false;
            client.removing = NONE;
        }
    }

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
