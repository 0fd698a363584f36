//! What properties and traces ask of a world.

use local_daemon_proto::claim::Reason;

use super::{Cause, Phase, Setting, World, client_number, mark, number};
use crate::automaton::OFF;
use crate::machine::{Content, End, Letter, NONE, Root, Want};

impl Setting {
    /// Whether what follows is outside the scenario's bound.
    pub fn is_spent(&self, world: &World) -> bool {
        world.spent
    }

    /// Whether nothing has gone wrong.
    pub fn is_faultless(&self, world: &World) -> bool {
        world.left == self.scenario.faults && !self.scenario.hurried
    }

    /// The protocol number of each client, whether it runs in the sandbox, and where it is.
    pub fn callers<'a>(&'a self, world: &'a World) -> impl Iterator<Item = (u8, bool, Phase)> + 'a {
        let clients = &world.clients[..self.scenario.clients.len()];
        clients
            .iter()
            .map(|client| (self.protocol(client), self.is_sandboxed(client), client.phase))
    }

    /// Whether a daemon runs in the sandbox.
    pub fn runs_in_sandbox(&self, world: &World, daemon: u8) -> bool {
        world.slots[usize::from(daemon)].has(mark::SANDBOXED)
    }

    /// The daemons that run.
    pub fn running(&self, world: &World) -> Vec<u8> {
        let runs = |slot: &u8| self.is_running(world.slots[usize::from(*slot)]);
        self.slots().map(number).filter(runs).collect()
    }

    /// What a daemon wants to do next.
    pub fn daemon_wants(&self, world: &World, daemon: u8) -> Want {
        self.out(world.slots[usize::from(daemon)].claim).want
    }

    /// What a client in a call wants to do next.
    pub fn client_wants(&self, world: &World, client: u8) -> Want {
        self.out(world.clients[usize::from(client)].machine).want
    }

    /// Whether a client holds the lock.
    pub fn holds_lock(&self, world: &World, client: u8) -> bool {
        world.lock == client_number(usize::from(client))
    }

    /// Whether there is a credential.
    pub fn is_credential_made(&self, world: &World) -> bool {
        !self.scenario.first_launch || world.credential != NONE
    }

    /// The daemon that was started last in a step, where one was.
    pub fn started(&self, before: &World, after: &World) -> Option<u8> {
        let is_new = |slot: &usize| before.slots[*slot].claim == OFF && after.slots[*slot].claim != OFF;
        self.slots().find(is_new).map(number)
    }

    /// Why a daemon stands down, as soon as it does.
    pub fn reason(&self, world: &World, daemon: u8) -> Option<Reason> {
        self.out(world.slots[usize::from(daemon)].claim).reason
    }

    /// The daemons whose record stands in a taken file.
    pub fn taken(&self, world: &World) -> Vec<u8> {
        self.slots().map(number).filter(|slot| world.taken & (1 << slot) != 0).collect()
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

    /// Where a fresh connect of this protocol leads, in the sandbox or outside of it, by the crate's own machine.
    pub fn connects(&self, world: &World, protocol: u8, sandboxed: bool) -> Option<End> {
        let mut machine = self.automaton.start(Root::Call { protocol, spawn: false, replace: false });
        loop {
            let out = self.out(machine);
            let letter = match out.want {
                Want::ReadRecord => Letter::Read(world.record),
                Want::Probe(record) => {
                    Letter::Probed(self.client_probe(&mut world.clone(), record, sandboxed))
                }
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
        world.clients[..self.scenario.clients.len()].iter().map(|client| client.phase)
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
