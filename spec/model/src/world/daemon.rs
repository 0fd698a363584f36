//! What a daemon's effects do to the world.

use local_daemon_proto::claim::Reason;

use super::words::{content, probed, secret};
use super::{Cause, Log, Setting, World, broken, mark, number};
use crate::machine::{Content, Letter, NONE, Record, Want};
use crate::scenario::Deviation;

impl Setting {
    /// The next effect, where it can be performed and changes something.
    pub(super) fn daemon(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
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
                if stopping && self.lacks(Deviation::LockedRemoval) && !world.locks(own, log) {
                    return false;
                }
                let letter = self.read(world);
                log.say(|| format!("reads the record: {}", content(world.record, own)));
                letter
            }
            Want::Probe(record) => {
                let answer = self.probe(world, record, slot.credential, slot.has(mark::SANDBOXED));
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
                if world.credential == NONE { Letter::Missing } else { Letter::Done }
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
                let mine = Content::Record(Record { id: own, port: slot.port });
                if world.temporary != Content::Missing {
                    world.temporary = mine;
                } else if world.record == Content::Torn {
                    world.record = mine;
                }
                log.say(|| "writes its record into it".to_owned());
                Letter::Done
            }
            Want::Publish => {
                if self.lacks(Deviation::LockedRemoval) && !world.locks(own, log) {
                    return false;
                }
                let letter = self.publish(world, index, log);
                if world.lock == own {
                    world.release(own);
                    log.say(|| "gives the lock back".to_owned());
                }
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
                let record = Content::Record(Record { id: theirs, port: theirs });
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

    /// The machine hears what came of its effect; `took` is the record that it has just taken.
    pub(super) fn told(
        &self,
        world: &mut World,
        index: usize,
        letter: Letter,
        took: Option<Content>,
        log: &mut Log,
    ) {
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
    pub(super) fn settle(&self, world: &mut World, index: usize, took: Option<Content>, log: &mut Log) {
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
                    slot.marks &= mark::SAID | mark::SANDBOXED;
                    slot.credential = NONE;
                    return;
                }
                _ => return,
            };
            world.slots[index].claim = self.automaton.step(slot.claim, letter);
        }
    }

    /// The temporary file is renamed over the record.
    pub(super) fn publish(&self, world: &mut World, index: usize, log: &mut Log) -> Letter {
        let own = number(index);
        let content = if self.lacks(Deviation::SharedTemporary) {
            if world.temporary == Content::Missing {
                log.say(|| "finds its temporary file gone".to_owned());
                return Letter::Failed;
            }
            std::mem::replace(&mut world.temporary, Content::Missing)
        } else {
            Content::Record(Record { id: own, port: world.slots[index].port })
        };
        if world.slots[index].has(mark::SPARES) && world.record.id().is_some_and(|owner| owner != own) {
            self.note(world, broken::CHURN);
        }
        world.unspare();
        world.record = content;
        world.last = own;
        world.cause = Cause::Rightly;
        world.slots[index].set(mark::SAID);
        if self.scenario.has_sandbox() {
            world.slots[index].set(mark::ALIVE);
        }
        log.say(|| "renames its record into place".to_owned());
        Letter::Done
    }

    /// The record is renamed to its taken name, or unlinked without the rule.
    pub(super) fn take(
        &self,
        world: &mut World,
        index: usize,
        took: &mut Option<Content>,
        log: &mut Log,
    ) -> Letter {
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

    /// `theirs` is the record that another has deleted.
    pub(super) fn note_removal(&self, world: &mut World, theirs: u8) {
        if self.is_running(world.slots[usize::from(theirs)]) {
            self.note(world, broken::REMOVED);
        }
    }

    /// The listener gets the port of the stale record.
    pub(super) fn reuse(&self, world: &mut World, index: usize, log: &mut Log) -> bool {
        let slot = world.slots[index];
        let Content::Record(Record { port, .. }) = world.record else {
            return false;
        };
        let taken = world.slots.iter().any(|other| other.has(mark::LISTENING) && other.port == port);
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
}
