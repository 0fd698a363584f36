//! The worlds that an observation leads to.

use local_daemon_proto::claim::{Claim, ClaimEffect, ClaimEvent, Reason};

use super::{Content, Daemon, Search, World, protocol};
use crate::observed::{By, What};

impl Search<'_> {
    /// The worlds in which an observation happens now.
    pub(super) fn happens(&self, world: &World, index: usize, open: &[usize], next: &mut Vec<World>) {
        let what = &self.events[index].what;
        if what.is_of_files() {
            if self.files.get(world.files) == Some(&index) {
                let from = next.len();
                self.changes_files(world, what, next);
                for world in &mut next[from..] {
                    world.files += 1;
                }
            }
            return;
        }
        if world.done.contains_key(&index) {
            return;
        }
        let mut changed = world.clone();
        changed.done.insert(index, 0);
        match what {
            What::DaemonStarted { daemon, yields } => {
                for yields in
                    [false, true].into_iter().filter(|told| yields.is_none_or(|yields| yields == *told))
                {
                    let mut world = changed.clone();
                    world.daemons.insert(
                        *daemon,
                        Daemon {
                            claim: Claim::new(self.id(*daemon), protocol(), yields),
                            taken: None,
                            has_published: false,
                            is_asked: false,
                            is_paused: false,
                        },
                    );
                    next.push(world);
                }
                return;
            }
            What::Exited { daemon, status, .. } => {
                let Some(gone) = changed.daemons.remove(daemon) else {
                    return;
                };
                let ended = gone.claim.effect().is_none();
                let fits = match (status, gone.claim.reason()) {
                    // Killed, at whatever step.
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(status @ (0 | 20)), Some(reason)) => ended && reason.exit_status() == *status,
                    (Some(_), Some(reason)) => ended && reason == Reason::Failed,
                };
                if !fits {
                    return;
                }
            }
            // Nor writes it in place.
            What::RecordTouched { by } if *by == Some(By::Other) => return,
            What::RecordTouched { .. } => {
                // They are all alike: the one that must have happened first is the first.
                let is_touch = |other: &usize| matches!(self.events[*other].what, What::RecordTouched { .. });
                let mut earlier = open.iter().filter(|other| **other < index && is_touch(other));
                if earlier.any(|other| !world.done.contains_key(other)) {
                    return;
                }
                changed.record = Content::Any;
            }
            What::AskedToStop { daemon } => {
                changed.daemons.entry(*daemon).and_modify(|here| here.is_asked = true);
            }
            What::Paused { daemon } => {
                changed.daemons.entry(*daemon).and_modify(|here| here.is_paused = true);
            }
            What::Resumed { daemon } => {
                changed.daemons.entry(*daemon).and_modify(|here| here.is_paused = false);
            }
            _ => return,
        }
        next.push(changed);
    }

    fn changes_files(&self, world: &World, what: &What, next: &mut Vec<World>) {
        let daemons = || world.daemons.iter().filter(|(_, here)| !here.is_paused);
        let mut push = |change: &dyn Fn(&mut World)| {
            let mut world = world.clone();
            change(&mut world);
            next.push(world);
        };
        match what {
            What::WatchBegan { record } => {
                let seen = record.as_ref().map_or(Content::Missing, |id| known(Some(id)));
                let launched =
                    matches!(seen, Content::Record(id) if self.ids.values().any(|other| *other == id));
                // A person may have been there before; nobody has taken a daemon's record away by then.
                let empty = matches!(world.record, Content::Missing | Content::Any);
                if world.record == seen || (!launched && (empty || seen != Content::Missing)) {
                    push(&|world| {
                        world.record = seen;
                        world.is_watched = true;
                    });
                }
            }
            What::RecordPut { id, daemon, by } => {
                if *by != Some(By::Other) {
                    push(&|world| world.record = known(id.as_ref()));
                }
                let may = |(number, here): &(&u32, &Daemon)| {
                    let wants = here.claim.effect() == Some(ClaimEffect::Publish);
                    let is_this = daemon.is_none_or(|daemon| daemon == **number);
                    wants
                        && is_this
                        && id.as_ref().is_none_or(|id| known(Some(id)) == Content::Record(here.claim.id()))
                };
                for (number, here) in daemons().filter(may).filter(|_| *by != Some(By::Suite)) {
                    let content = Content::Record(here.claim.id());
                    push(&|world| {
                        world.record = content;
                        world.daemons.entry(*number).and_modify(Daemon::publishes);
                    });
                }
            }
            What::RecordTaken { file, by } => {
                let take = |world: &mut World| {
                    let content = std::mem::replace(&mut world.record, Content::Missing);
                    world.taken.insert(file.clone(), content);
                };
                if *by != Some(By::Other) {
                    push(&take);
                }
                let may = |(_, here): &(&u32, &Daemon)| here.claim.effect() == Some(ClaimEffect::Take);
                for (number, _) in daemons().filter(may).filter(|_| *by != Some(By::Suite)) {
                    push(&|world| {
                        take(world);
                        world.daemons.entry(*number).and_modify(|here| {
                            here.taken = Some(file.clone());
                            here.claim.handle(ClaimEvent::Done);
                        });
                    });
                }
            }
            // No machine unlinks the record or makes a taken file of anything else.
            What::RecordRemoved { by } if *by != Some(By::Other) => {
                push(&|world| world.record = Content::Missing);
            }
            What::TakenPut { file, by } if *by != Some(By::Other) => {
                push(&|world| {
                    world.taken.insert(file.clone(), Content::Any);
                });
            }
            What::TakenRemoved { file, by } => {
                if *by != Some(By::Other) {
                    push(&|world| {
                        world.taken.remove(file);
                    });
                }
                let content = world.taken.get(file).copied().unwrap_or(Content::Any);
                for (number, here) in daemons().filter(|_| *by != Some(By::Suite)) {
                    let own = here.claim.effect() == Some(ClaimEffect::UnlinkOwn)
                        && here.taken.as_ref() == Some(file);
                    let reclaimed = here.claim.effect() == Some(ClaimEffect::UnlinkTaken)
                        && (content == Content::Any || content == Content::Record(here.claim.id()));
                    if own || reclaimed {
                        push(&|world| {
                            world.taken.remove(file);
                            if own {
                                world
                                    .daemons
                                    .entry(*number)
                                    .and_modify(|here| here.claim.handle(ClaimEvent::Done));
                            }
                        });
                    }
                }
            }
            _ => {}
        }
    }
}

fn known(id: Option<&String>) -> Content {
    id.and_then(|id| id.parse().ok()).map_or(Content::Any, Content::Record)
}
