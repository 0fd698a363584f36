//! What a daemon can do between two observations, without being seen.

use std::num::{NonZeroU16, NonZeroU32};

use local_daemon_proto::claim::{Effect, Outcome};
use local_daemon_proto::handshake::{Handshake, Probe, State};
use local_daemon_proto::registration::{self, ClaimId, LoopbackHost, LoopbackUrl, Registration, Sight};

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
                if let Some(Effect::Await(_) | Effect::Pause(_)) = here.claim.next() {
                    here.claim.on(Outcome::Done);
                }
            });
        }
        let id = here.claim.id();
        let mut hears = |outcome: Outcome| becomes(&|here| here.claim.on(outcome.clone()));
        match here.claim.next() {
            // The end of a wait is one step with the read that follows.
            Some(Effect::Await(_) | Effect::Pause(_)) => {
                for sight in Self::sights(world.record, id) {
                    becomes(&|here| {
                        here.claim.on(Outcome::Done);
                        here.claim.on(Outcome::Record(sight.clone()));
                    });
                }
            }
            Some(Effect::ReadRecord) => {
                for sight in Self::sights(world.record, id) {
                    hears(Outcome::Record(sight));
                }
            }
            Some(Effect::ReadTaken) => {
                let content = here.taken.as_ref().and_then(|file| world.taken.get(file)).copied();
                for sight in Self::sights(content.unwrap_or(Content::Missing), id) {
                    hears(Outcome::Record(sight));
                }
            }
            Some(Effect::Probe(record)) => {
                hears(Outcome::Probed(Probe::Refused));
                hears(Outcome::Probed(Probe::Unreachable));
                hears(Outcome::Probed(Probe::Proven(handshake(record.id))));
            }
            Some(Effect::ListTaken) => {
                let mine = |content: &Content| *content == Content::Record(id);
                let found = world.taken.values().any(mine);
                let unclear = world.taken.values().any(|content| *content == Content::Any);
                if found || unclear || !world.is_watched {
                    hears(Outcome::Taken(true));
                }
                if !found {
                    hears(Outcome::Taken(false));
                }
                hears(Outcome::Failed);
            }
            Some(Effect::Take) if world.record != Content::Record(id) => {
                hears(Outcome::Missing);
                hears(Outcome::Failed);
            }
            // A launch that fails is followed where it was seen to end so.
            Some(Effect::Publish)
                if !here.has_published && !here.is_asked && !self.failed.contains(&daemon) => {}
            Some(Effect::Publish | Effect::Take | Effect::UnlinkTaken | Effect::UnlinkOwn) => {
                hears(Outcome::Failed);
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
        match here.claim.next() {
            Some(Effect::Publish) => {
                changed.record = Content::Record(here.claim.id());
                here.publishes();
            }
            Some(Effect::Take) => {
                let file = format!("unseen-{daemon}");
                here.taken = Some(file.clone());
                here.claim.on(Outcome::Done);
                changed.taken.insert(file, std::mem::replace(&mut changed.record, Content::Missing));
            }
            Some(Effect::UnlinkOwn) => {
                let file = here.taken.take();
                here.claim.on(Outcome::Done);
                file.and_then(|file| changed.taken.remove(&file));
            }
            _ => return,
        }
        next.push(changed);
    }

    /// What a read can show.
    fn sights(content: Content, own: ClaimId) -> Vec<Sight> {
        match content {
            Content::Missing => vec![Sight::Missing],
            Content::Record(id) => vec![Sight::Record(registration(id))],
            Content::Any => vec![
                Sight::Missing,
                Sight::DirectoryGone,
                Sight::Unreadable,
                Sight::Malformed(None),
                Sight::Record(registration(own)),
                Sight::Record(registration(ClaimId::from_bits(u128::MAX))),
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
