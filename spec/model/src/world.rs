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

mod client;
mod daemon;
mod questions;
mod symmetry;
mod words;

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
            self.launch(&mut world, slot, *protocol, false, &mut Log::default());
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

    fn probe(&self, world: &mut World, record: Record, credential: u8) -> Answer {
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
                let machine = self.automaton.step(world.clients[client].machine, Letter::Locked(false));
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
                let waits = client.phase == Phase::Calling && !client.paused && want != Want::Nothing;
                if !waits || self.lacks(Deviation::NoDeadline) {
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
                world.crash(process);
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

    /// Forgets of processes that have gone what can no longer matter, so that worlds that behave alike are one.
    fn tidy(&self, world: &mut World) {
        for index in self.clients() {
            let Client { phase, calls, .. } = world.clients[index];
            // Nobody can tell when one learns it that does not connect again.
            let left =
                matches!(phase, Phase::Connected(daemon) if self.leaves(world.slots[usize::from(daemon)]));
            if left && calls == 0 {
                world.clients[index].phase = Phase::Lost;
            }
        }
        for index in self.slots() {
            let own = number(index);
            let is_child = world.clients.iter().any(|client| client.child == own);
            if !is_child && !world.slots[index].has(mark::DEAF) {
                world.slots[index].clear(mark::SAID);
            }
            let slot = world.slots[index];
            if slot.claim == OFF || self.is_running(slot) || world.last == own || is_child {
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
        let by_slot = |slot: &Slot| self.is_running(*slot) && mentions(slot.claim);
        let by_client =
            |client: &Client| client.phase == Phase::Connected(daemon) || mentions(client.machine);
        world.record.id() == Some(daemon)
            || world.last == daemon
            || world.taken & (1 << daemon) != 0
            || world.slots[..].iter().any(by_slot)
            || world.clients.iter().any(by_client)
    }

    /// What can come next, and how still the world is.
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
        let running = |slot: usize| self.is_running(world.slots[slot]);
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
}

impl Slot {
    fn has(self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    fn set(&mut self, mark: u8) {
        self.marks |= mark;
    }

    fn clear(&mut self, mark: u8) {
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
            slot.marks = slot.marks & mark::SAID | mark::CRASHED;
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
