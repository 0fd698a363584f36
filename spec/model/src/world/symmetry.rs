//! Worlds that are the same but for the names of daemons and clients.

use super::{Phase, Setting, Slot, World, client_number, number};
use crate::automaton::{Local, rank};
use crate::machine::{Content, DAEMONS, NONE, Names, Record};
use crate::scenario::CLIENTS;

impl Setting {
    /// One representative of all worlds that are the same but for the names of daemons and clients.
    pub fn canonical(&self, world: &World) -> World {
        let count = usize::from(self.scenario.slots);
        let mut order = [0, 1, 2, 3, 4];
        let mut keys = [(0, 0, 0, 0, 0); DAEMONS];
        for (slot, key) in keys.iter_mut().enumerate().take(count) {
            *key = self.slot_key(world, number(slot));
        }
        order[..count].sort_by_key(|slot: &usize| keys[*slot]);
        let mut names: Names = [0, 1, 2, 3, 4, 5];
        for (new, old) in order.iter().enumerate() {
            names[*old] = number(new);
        }
        let mut world = self.renamed(world, names);
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

    fn slot_key(&self, world: &World, daemon: u8) -> (Local, u16, u8, u8, u8) {
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
        (self.automaton.orbit(slot.claim), slot.marks, slot.protocol, tied, children << 2 | peers)
    }

    fn renamed(&self, world: &World, names: Names) -> World {
        let by = rank(names, usize::from(self.scenario.slots));
        if by == 0 {
            return *world;
        }
        let name = |daemon: u8| {
            if usize::from(daemon) < DAEMONS { names[usize::from(daemon)] } else { daemon }
        };
        let content = |content: Content| match content {
            Content::Record(record) => {
                Content::Record(Record { id: name(record.id), port: name(record.port) })
            }
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
}
