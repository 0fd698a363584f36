//! Whether the crate's `Claim` can have done what was seen of a run.
//!
//! The search keeps every world that the observations so far allow: each daemon is the crate's own machine, the
//! directory is what the model's [`world`](crate::world) has of one, and between two observations every machine may
//! take any number of steps that nobody sees. What can be seen happens only as one of the observations, within its two
//! instants and, for files, in their order. The suite's own acts are steps of the environment.
//!
//! It errs on the side of the subject. Time does not press: no machine ever has to move. Any effect may fail; what
//! stands in a file that was written in place may be anything; a probe may bring any answer; whoever was asked to stop
//! may take as long as it likes to hear it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use local_daemon_proto::Protocol;
use local_daemon_proto::claim::{Claim, Effect, Outcome, Reason};
use local_daemon_proto::handshake::{Handshake, Probe, State};
use local_daemon_proto::registration::{ClaimId, LoopbackHost, LoopbackUrl, Registration, Sight};

use crate::observed::{By, Event, Observed, What};

/// More worlds at once than this are not followed.
const MOST: usize = 60_000;

/// What the search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The machines can have done it.
    Admitted,
    /// No run of the machines shows what was seen up to this observation.
    Refused {
        /// Its place among the observations, from 0.
        event: usize,
        /// What the machines could have shown instead, in some world.
        instead: Vec<String>,
    },
    /// The model has no word for what happened; what came before it is admitted.
    Outside(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted => f.write_str("admitted"),
            Self::Refused { event, instead } => {
                write!(f, "refused at event {event}")?;
                match &instead[..] {
                    [] => f.write_str("; nothing that can be seen was possible"),
                    some => write!(f, "; possible was: {}", some.join("; ")),
                }
            }
            Self::Outside(why) => write!(f, "outside the model: {why}"),
        }
    }
}

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Content {
    Missing,
    Record(ClaimId),
    /// Written by somebody in a way that does not tell what a read shows.
    Any,
}

/// One daemon in one world.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Daemon {
    claim: Claim,
    /// The name of the file that it has taken.
    taken: Option<String>,
    has_published: bool,
    is_asked: bool,
    is_paused: bool,
}

impl Daemon {
    fn publishes(&mut self) {
        self.has_published = true;
        self.claim.on(Outcome::Done);
    }
}

/// One world.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    record: Content,
    taken: BTreeMap<String, Content>,
    daemons: BTreeMap<u32, Daemon>,
    is_watched: bool,
    /// How many observations of files have happened.
    files: usize,
    /// The other observations that have happened and may not have had to.
    done: BTreeMap<usize, u8>,
}

/// What has held at some moment of a handshake.
mod moment {
    pub(super) const OWNER: u8 = 1;
    pub(super) const SERVING: u8 = 2;
    pub(super) const OTHER: u8 = 4;
    pub(super) const LEAVING: u8 = 8;
}

/// Whether the machines can have done it.
pub fn admits(observed: &Observed) -> Verdict {
    let search = Search::new(observed);
    let mut points: Vec<(u64, bool, usize)> = Vec::new();
    for (index, event) in observed.events.iter().enumerate() {
        // Nobody can tell a process that does nothing yet, or any more, from one that is not there.
        let (after, by) = match event.what {
            What::DaemonStarted { .. } => (event.after_us, event.after_us),
            What::Exited { .. } => (event.by_us, event.by_us),
            _ => (event.after_us, event.by_us.max(event.after_us)),
        };
        points.push((after, false, index));
        points.push((by, true, index));
    }
    points.sort_unstable();
    let mut worlds = HashSet::from([World {
        record: Content::Any,
        taken: BTreeMap::new(),
        daemons: BTreeMap::new(),
        is_watched: false,
        files: 0,
        done: BTreeMap::new(),
    }]);
    let mut open = Vec::new();
    for (_, closes, index) in points {
        if !closes {
            open.push(index);
            worlds = worlds.into_iter().map(|world| search.opened(world, index)).collect();
            continue;
        }
        let Some(reached) = search.closure(worlds, &open) else {
            return Verdict::Outside(format!("more than {MOST} worlds are possible at event {index}"));
        };
        open.retain(|other| *other != index);
        worlds = reached.iter().filter_map(|world| search.closed(world, index)).collect();
        if worlds.is_empty() {
            return Verdict::Refused { event: index, instead: Search::possible(&reached) };
        }
    }
    match &observed.ends {
        Some(why) => Verdict::Outside(why.clone()),
        None => Verdict::Admitted,
    }
}

struct Search<'a> {
    events: &'a [Event],
    /// The observations of files, in order.
    files: Vec<usize>,
    ids: BTreeMap<u32, ClaimId>,
    /// The daemons that were seen to end as one that could not start.
    failed: BTreeSet<u32>,
}

impl<'a> Search<'a> {
    fn new(observed: &'a Observed) -> Self {
        let events = &observed.events[..];
        let files = (0..events.len()).filter(|index| events[*index].what.is_of_files()).collect();
        let ids = observed.ids().into_iter().filter_map(|(daemon, id)| Some((daemon, id.parse().ok()?)));
        let failed = events.iter().filter_map(|event| match event.what {
            What::Exited { daemon, status: Some(status), .. } if !matches!(status, 0 | 20) => Some(daemon),
            _ => None,
        });
        Self { events, files, ids: ids.collect(), failed: failed.collect() }
    }

    /// A daemon of which no id was seen has one that nobody else has.
    fn id(&self, daemon: u32) -> ClaimId {
        self.ids.get(&daemon).copied().unwrap_or_else(|| ClaimId::from_bits(u128::from(daemon)))
    }

    /// The observation may happen from now on.
    fn opened(&self, mut world: World, index: usize) -> World {
        if let What::Answered { .. } = self.events[index].what {
            world.done.insert(index, 0);
        }
        world
    }

    /// The observation must have happened by now.
    fn closed(&self, world: &World, index: usize) -> Option<World> {
        let what = &self.events[index].what;
        if what.is_of_files() {
            let place = self.files.iter().position(|file| *file == index)?;
            return (world.files > place).then(|| world.clone());
        }
        let mut next = world.clone();
        let seen = next.done.remove(&index)?;
        let is_so = match what {
            What::Answered { daemon, state, .. } if self.ids.contains_key(daemon) && state == "ready" => {
                seen & moment::OWNER != 0 && seen & moment::SERVING != 0
            }
            What::Answered { daemon, .. } if self.ids.contains_key(daemon) => {
                seen & (moment::OTHER | moment::LEAVING) != 0
            }
            _ => true,
        };
        is_so.then_some(next)
    }

    /// Every world that can be reached by steps that are not seen and by observations that may happen now.
    fn closure(&self, worlds: HashSet<World>, open: &[usize]) -> Option<HashSet<World>> {
        let mut known = HashSet::with_capacity(worlds.len() * 4);
        let mut waiting = Vec::new();
        for world in worlds {
            self.meet(world, open, &mut known, &mut waiting);
        }
        while let Some(world) = waiting.pop() {
            if known.len() > MOST {
                return None;
            }
            let mut next = Vec::new();
            for daemon in world.daemons.keys() {
                self.steps(&world, *daemon, &mut next);
            }
            for index in open {
                self.happens(&world, *index, open, &mut next);
            }
            for world in next {
                self.meet(world, open, &mut known, &mut waiting);
            }
        }
        Some(known)
    }

    fn meet(&self, mut world: World, open: &[usize], known: &mut HashSet<World>, waiting: &mut Vec<World>) {
        for daemon in world.daemons.values_mut() {
            settle(&mut daemon.claim);
        }
        for index in open {
            let What::Answered { daemon, .. } = &self.events[*index].what else {
                continue;
            };
            let Some(here) = world.daemons.get(daemon) else {
                continue;
            };
            let id = here.claim.id();
            let owner = match world.record {
                Content::Record(other) if other == id => moment::OWNER,
                Content::Any => moment::OWNER | moment::OTHER,
                _ => moment::OTHER,
            };
            let serving = match here.claim.state(&Sight::Malformed(Some(id))) {
                State::Ready => moment::SERVING,
                State::Draining => moment::LEAVING,
            };
            if let Some(seen) = world.done.get_mut(index) {
                *seen |= owner | serving;
            }
        }
        if known.insert(world.clone()) {
            waiting.push(world);
        }
    }

    /// What a daemon can do that nobody sees.
    fn steps(&self, world: &World, daemon: u32, next: &mut Vec<World>) {
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

    /// The worlds in which an observation happens now.
    fn happens(&self, world: &World, index: usize, open: &[usize], next: &mut Vec<World>) {
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
                let ended = gone.claim.next().is_none();
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
                    let wants = here.claim.next() == Some(Effect::Publish);
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
                let may = |(_, here): &(&u32, &Daemon)| here.claim.next() == Some(Effect::Take);
                for (number, _) in daemons().filter(may).filter(|_| *by != Some(By::Suite)) {
                    push(&|world| {
                        take(world);
                        world.daemons.entry(*number).and_modify(|here| {
                            here.taken = Some(file.clone());
                            here.claim.on(Outcome::Done);
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
                    let own =
                        here.claim.next() == Some(Effect::UnlinkOwn) && here.taken.as_ref() == Some(file);
                    let reclaimed = here.claim.next() == Some(Effect::UnlinkTaken)
                        && (content == Content::Any || content == Content::Record(here.claim.id()));
                    if own || reclaimed {
                        push(&|world| {
                            world.taken.remove(file);
                            if own {
                                world.daemons.entry(*number).and_modify(|here| here.claim.on(Outcome::Done));
                            }
                        });
                    }
                }
            }
            _ => {}
        }
    }

    /// What the machines could have shown next.
    fn possible(worlds: &HashSet<World>) -> Vec<String> {
        let mut possible: Vec<String> = Vec::new();
        for world in worlds {
            for (number, here) in &world.daemons {
                let what = match (here.claim.next(), here.claim.reason()) {
                    _ if here.is_paused => continue,
                    (Some(Effect::Publish), _) => "publishes".to_owned(),
                    (Some(Effect::Take), _) => "renames the record to a taken name".to_owned(),
                    (Some(Effect::UnlinkOwn | Effect::UnlinkTaken), _) => "unlinks a taken file".to_owned(),
                    (None, Some(reason)) => format!("exits with status {}", reason.exit_status()),
                    _ => continue,
                };
                possible.push(format!("daemon {number} {what}"));
            }
        }
        possible.sort_unstable();
        possible.dedup();
        possible
    }
}

/// Performs what neither others nor the outcome of others' steps can tell.
fn settle(claim: &mut Claim) {
    while let Some(
        Effect::Listen
        | Effect::ReadCredential
        | Effect::CreateCredential
        | Effect::WriteTemporary
        | Effect::DropTemporary
        | Effect::Drain
        | Effect::Close,
    ) = claim.next()
    {
        claim.on(Outcome::Done);
    }
}

fn known(id: Option<&String>) -> Content {
    id.and_then(|id| id.parse().ok()).map_or(Content::Any, Content::Record)
}

fn protocol() -> Protocol {
    "observed/1".parse().expect("a protocol identifier")
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
