//! What a daemon can do between two observations, without being seen.

use std::num::{NonZeroU16, NonZeroU32};

use local_daemon_proto::claim::{ClaimEffect, ClaimEvent};
use local_daemon_proto::handshake::{Handshake, Probe, State};
use local_daemon_proto::registration::{self, ClaimId, LoopbackHost, LoopbackUrl, RecordRead, Registration};

use super::{Content, Daemon, Search, World, protocol};

impl Search<'_> {
    /// What a daemon can do that nobody sees.
    pub(super) fn steps(&self, world: &World, daemon: u32, next: &mut Vec<World>) {
        let here = &world.daemons[&daemon];
        if here.is_paused {
            return;
        }
        let mut becomes = |change: &dyn Fn(&mut Daemon)| {
            let mut world = world.clone();
            world.daemons.entry(daemon).and_modify(|here| change(here));
            next.push(world);
        };
        if here.is_asked && here.claim.reason().is_none() {
            becomes(&|here| {
                here.claim.stop();
                if let Some(ClaimEffect::Await(_) | ClaimEffect::Pause(_)) = here.claim.effect() {
                    here.claim.handle(ClaimEvent::Done);
                }
            });
        }
        let id = here.claim.id();
        let mut hears = |outcome: ClaimEvent| becomes(&|here| here.claim.handle(outcome.clone()));
        match here.claim.effect() {
            // The end of a wait is one step with the read that follows.
            Some(ClaimEffect::Await(_) | ClaimEffect::Pause(_)) => {
                for sight in Self::sights(world.record, id) {
                    becomes(&|here| {
                        here.claim.handle(ClaimEvent::Done);
                        here.claim.handle(ClaimEvent::Record(sight.clone()));
                    });
                }
            }
            Some(ClaimEffect::ReadRecord) => {
                for sight in Self::sights(world.record, id) {
                    hears(ClaimEvent::Record(sight));
                }
            }
            Some(ClaimEffect::ReadTaken) => {
                let content = here.taken.as_ref().and_then(|file| world.taken.get(file)).copied();
                for sight in Self::sights(content.unwrap_or(Content::Missing), id) {
                    hears(ClaimEvent::Record(sight));
                }
            }
            Some(ClaimEffect::Probe(record)) => {
                hears(ClaimEvent::Probed(Probe::Refused));
                hears(ClaimEvent::Probed(Probe::Unreachable));
                hears(ClaimEvent::Probed(Probe::Proven(handshake(record.id))));
            }
            Some(ClaimEffect::ListTaken) => {
                let mine = |content: &Content| *content == Content::Record(id);
                let found = world.taken.values().any(mine);
                let unclear = world.taken.values().any(|content| *content == Content::Any);
                if found || unclear || !world.is_watched {
                    hears(ClaimEvent::Taken(true));
                }
                if !found {
                    hears(ClaimEvent::Taken(false));
                }
                hears(ClaimEvent::Failed);
            }
            Some(ClaimEffect::Take) if world.record != Content::Record(id) => {
                hears(ClaimEvent::Missing);
                hears(ClaimEvent::Failed);
            }
            // A launch that fails is followed where it was seen to end so.
            Some(ClaimEffect::Publish)
                if !here.has_published && !here.is_asked && !self.failed.contains(&daemon) => {}
            Some(
                ClaimEffect::Publish | ClaimEffect::Take | ClaimEffect::UnlinkTaken | ClaimEffect::UnlinkOwn,
            ) => {
                hears(ClaimEvent::Failed);
            }
            _ => {}
        }
        if !world.is_watched {
            Self::changes(world, daemon, next);
        }
    }

    /// What a daemon changes while nobody looks yet.
    fn changes(world: &World, daemon: u32, next: &mut Vec<World>) {
        let mut changed = world.clone();
        let Some(here) = changed.daemons.get_mut(&daemon) else {
            return;
        };
        match here.claim.effect() {
            Some(ClaimEffect::Publish) => {
                changed.record = Content::Record(here.claim.id());
                here.publishes();
            }
            Some(ClaimEffect::Take) => {
                let file = format!("unseen-{daemon}");
                here.taken = Some(file.clone());
                here.claim.handle(ClaimEvent::Done);
                changed.taken.insert(file, std::mem::replace(&mut changed.record, Content::Missing));
            }
            Some(ClaimEffect::UnlinkOwn) => {
                let file = here.taken.take();
                here.claim.handle(ClaimEvent::Done);
                file.and_then(|file| changed.taken.remove(&file));
            }
            _ => return,
        }
        next.push(changed);
    }

    /// What a read can show.
    fn sights(content: Content, own: ClaimId) -> Vec<RecordRead> {
        match content {
            Content::Missing => vec![RecordRead::Missing],
            Content::Record(id) => vec![RecordRead::Record(registration(id))],
            Content::Any => vec![
                RecordRead::Missing,
                RecordRead::DirectoryGone,
                RecordRead::Unreadable,
                RecordRead::Malformed(None),
                RecordRead::Record(registration(own)),
                RecordRead::Record(registration(ClaimId::from_bits(u128::MAX))),
            ],
        }
    }
}

fn registration(id: ClaimId) -> Registration {
    Registration {
        id,
        version: String::new(),
        url: LoopbackUrl::new(LoopbackHost::V4, NonZeroU16::MIN),
        pid: NonZeroU32::MIN,
        protocol: None,
        socket: None,
        started_at: None,
        world: registration::World::default(),
    }
}

fn handshake(id: ClaimId) -> Handshake {
    Handshake {
        protocol: protocol(),
        id,
        pid: NonZeroU32::MIN,
        version: String::new(),
        state: State::Ready,
        capabilities: Vec::new(),
    }
}
