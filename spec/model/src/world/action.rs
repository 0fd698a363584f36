//! What can be done in a world, and what it does.

use super::{Cause, Client, Log, Phase, Setting, Slot, World, client_number, mark, number};
use crate::automaton::{GONE, Local, OFF};
use crate::machine::{Content, DAEMONS, Letter, NONE, Want};
use crate::scenario::Deviation;

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

impl Setting {
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
}
