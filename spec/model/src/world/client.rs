//! What a client's effects do to the world.

use local_daemon_proto::claim::Reason;
use local_daemon_proto::connect::Child;

use super::words::{content, probed};
use super::{Cause, Client, Log, Phase, Setting, World, broken, client_number, mark, number};
use crate::automaton::OFF;
use crate::machine::{Answer, Content, End, Letter, NONE, Record, Root, Want};
use crate::scenario::{Deviation, ENDLESS, Kind};

impl Setting {
    /// The next effect, where it can be performed and changes something.
    pub(super) fn client(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
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
            Phase::Connected(daemon) if self.leaves(world.slots[usize::from(daemon)]) => {
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

    /// A supervisor sees that its daemon has gone.
    pub(super) fn watch(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
        let child = world.clients[index].child;
        let slot = world.slots[usize::from(child)];
        if self.is_running(slot) {
            return false;
        }
        let reason = self.out(slot.claim).reason;
        let client = &mut world.clients[index];
        client.child = NONE;
        match reason {
            Some(Reason::Displaced) if !self.lacks(Deviation::RestartDisplaced) => {
                log.say(|| format!("sees that D{child} was displaced, and connects"));
                client.phase = Phase::Calling;
                client.machine =
                    self.automaton.start(Root::Call { protocol: 1, spawn: false, replace: false });
            }
            None | Some(Reason::Displaced | Reason::Failed) => {
                log.say(|| format!("sees that D{child} is gone, and starts it again"));
                client.phase = Phase::Starting;
            }
            Some(_) => client.phase = Phase::Lost,
        }
        true
    }

    /// A daemon is started as this client's child, if there is room for one.
    pub(super) fn spawn(&self, world: &mut World, index: usize, yields: bool, log: &mut Log) {
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
        let sandboxed = self.is_sandboxed(&world.clients[index]);
        self.launch(world, slot, protocol, yields, sandboxed, &mut Log::default());
    }

    /// Without the rule that clients do not remove: compares, then unlinks.
    pub(super) fn remove(&self, world: &mut World, index: usize, log: &mut Log) {
        let Client { removing, compared, .. } = world.clients[index];
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

    /// The next effect of a call. Taking the lock is one step with the read that follows.
    pub(super) fn call(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
        let client = world.clients[index];
        let letter = match self.out(client.machine).want {
            Want::ReadRecord => {
                log.say(|| format!("reads the record: {}", content(world.record, NONE)));
                self.read(world)
            }
            Want::Probe(record) => {
                let answer = self.client_probe(world, record, self.is_sandboxed(&client));
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
                    Kind::Caller { ignores_lock: true, .. }
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

    /// A probe with the credential that is in the file.
    pub(super) fn client_probe(&self, world: &mut World, record: Record, sandboxed: bool) -> Answer {
        if self.scenario.first_launch && world.credential == NONE {
            return Answer::NoCredential;
        }
        self.probe(world, record, world.credential, sandboxed)
    }

    /// A waiting client wakes and reads, if that leads anywhere.
    pub(super) fn wakes(&self, world: &mut World, index: usize, second: bool, log: &mut Log) -> bool {
        let client = world.clients[index];
        let child = match client.child {
            NONE => Child::Silent,
            child => {
                let slot = world.slots[usize::from(child)];
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
        let seen = if self.lacks(Deviation::OwnChildOnly) && world.record.id() != Some(client.child) {
            Content::Missing
        } else {
            world.record
        };
        let woken = self.automaton.step(client.machine, Letter::Woken(child, second));
        let read = self.automaton.step(woken, Letter::Read(seen));
        let mut end = read;
        while let Want::Probe(record) = self.out(end).want {
            let answer = self.client_probe(&mut world.clone(), record, self.is_sandboxed(&client));
            end = self.automaton.step(end, Letter::Probed(answer));
        }
        if end == client.machine {
            return false;
        }
        world.clients[index].machine = woken;
        self.read(world);
        log.say(|| {
            let child = match child {
                Child::Silent => "",
                Child::Done => " (its child is done)",
                Child::Failed => " (its child failed)",
            };
            let seen = if seen == world.record {
                content(seen, NONE)
            } else {
                "not its child's".to_owned()
            };
            format!("wakes{child} and reads the record: {seen}")
        });
        self.hears(world, index, Letter::Read(seen), log);
        true
    }

    /// The machine hears what it observed. Giving the lock back is one step with what led to it.
    pub(super) fn hears(&self, world: &mut World, index: usize, letter: Letter, log: &mut Log) {
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
                if !self.is_running(world.slots[usize::from(daemon)]) {
                    world.broken |= broken::MISTAKEN & self.watched;
                }
                Phase::Connected(daemon)
            }
            End::Not(outcome) => {
                log.say(|| format!("ends: {outcome}"));
                match outcome {
                    "incompatible" => Phase::Incompatible,
                    "unreachable" => Phase::Unreachable,
                    _ => Phase::Failed,
                }
            }
        };
    }
}
