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

mod seen;
mod unseen;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use local_daemon_proto::Protocol;
use local_daemon_proto::claim::{Claim, ClaimEffect, ClaimEvent};
use local_daemon_proto::handshake::State;
use local_daemon_proto::registration::{ClaimId, RecordRead};

use crate::observed::{Event, Observed, What};

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
        self.claim.handle(ClaimEvent::Done);
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
            let serving = match here.claim.state(&RecordRead::Malformed(Some(id))) {
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

    /// What the machines could have shown next.
    fn possible(worlds: &HashSet<World>) -> Vec<String> {
        let mut possible: Vec<String> = Vec::new();
        for world in worlds {
            for (number, here) in &world.daemons {
                let what = match (here.claim.effect(), here.claim.reason()) {
                    _ if here.is_paused => continue,
                    (Some(ClaimEffect::Publish), _) => "publishes".to_owned(),
                    (Some(ClaimEffect::Take), _) => "renames the record to a taken name".to_owned(),
                    (Some(ClaimEffect::UnlinkOwn | ClaimEffect::UnlinkTaken), _) => {
                        "unlinks a taken file".to_owned()
                    }
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
        ClaimEffect::Listen
        | ClaimEffect::ReadCredential
        | ClaimEffect::CreateCredential
        | ClaimEffect::WriteTemporary
        | ClaimEffect::DropTemporary
        | ClaimEffect::Drain
        | ClaimEffect::Close,
    ) = claim.effect()
    {
        claim.handle(ClaimEvent::Done);
    }
}

fn protocol() -> Protocol {
    "observed/1".parse().expect("a protocol identifier")
}
