//! What can come next in a world.

use super::{Action, Log, Phase, Setting, World, client_number, mark, number};
use crate::machine::{Content, NONE};

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

impl Setting {
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
