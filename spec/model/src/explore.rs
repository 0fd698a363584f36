//! Every world that a scenario leads to, breadth first, and the shortest way to each violation.

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::property::{PROPERTIES, Property};
use crate::world::{Action, Setting, World};

/// A way through the worlds of a scenario, from the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// The steps to the violation.
    pub steps: Vec<Action>,
    /// For a livelock, the steps that then go round.
    pub cycle: Vec<Action>,
}

impl Trace {
    /// How many steps there are in all.
    pub fn len(&self) -> usize {
        self.steps.len() + self.cycle.len()
    }

    /// Whether the start itself violates.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an exploration came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Distinct worlds; up to the names of daemons and clients where `symmetric`.
    pub states: usize,
    /// Steps between them.
    pub edges: u64,
    /// The longest of the shortest ways to a world.
    pub depth: u32,
    /// Worlds that were not gone beyond, because another daemon was wanted than the scenario has room for.
    pub cut: usize,
    /// How long it took.
    pub took: Duration,
    /// For each of [`PROPERTIES`], a shortest way to a violation. Readable only where names were kept.
    pub violations: Vec<(&'static Property, Trace)>,
}

/// How to explore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    /// Everything, with worlds that differ in names taken for one: to find that there is nothing.
    Symmetric,
    /// Everything, with names kept.
    Named,
    /// Until this property is violated, with names kept.
    Until(&'static str),
}

impl Search {
    fn wants(self, property: &Property) -> bool {
        match self {
            Self::Until(name) => property.name == name,
            Self::Symmetric | Self::Named => true,
        }
    }
}

/// Explores a setting.
pub fn explore(setting: &Setting, search: Search) -> Report {
    let began = Instant::now();
    let mut graph = Graph::new(setting, search);
    let violated = graph.grow();
    let mut violations: Vec<(&'static Property, Trace)> =
        violated.into_iter().map(|(property, at)| (property, graph.path(at))).collect();
    let of_cycles = |property: &&Property| property.is_of_cycles() && search.wants(property);
    if let Some(property) = PROPERTIES.iter().find(of_cycles)
        && let Some(trace) = graph.livelock()
    {
        violations.push((property, trace));
    }
    Report {
        states: graph.worlds.len(),
        edges: graph.targets.len() as u64,
        depth: graph.depth,
        cut: graph.cut,
        took: began.elapsed(),
        violations,
    }
}

struct Graph<'a> {
    setting: &'a Setting,
    search: Search,
    worlds: Vec<World>,
    parents: Vec<u32>,
    /// Each world's hash and number.
    index: HashTable<(u64, u32)>,
    hasher: DefaultHashBuilder,
    /// The edges of world `n` lead to `targets[starts[n]..starts[n + 1]]`.
    starts: Vec<u32>,
    targets: Vec<u32>,
    depth: u32,
    cut: usize,
}

impl<'a> Graph<'a> {
    fn new(setting: &'a Setting, search: Search) -> Self {
        let mut graph = Self {
            setting,
            search,
            worlds: Vec::new(),
            parents: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            starts: vec![0],
            targets: Vec::new(),
            depth: 0,
            cut: 0,
        };
        graph.meet(setting.initial(), 0);
        graph
    }

    fn normal(&self, world: World) -> World {
        if self.search == Search::Symmetric {
            self.setting.canonical(&world)
        } else {
            world
        }
    }

    fn meet(&mut self, world: World, parent: u32) -> u32 {
        let world = self.normal(world);
        let hash = self.hasher.hash_one(world);
        let fresh = u32::try_from(self.worlds.len()).expect("fewer worlds than fit into memory");
        let same = |known: &(u64, u32)| known.0 == hash && self.worlds[known.1 as usize] == world;
        let entry = self.index.entry(hash, same, |known| known.0);
        let (_, at) = *entry.or_insert((hash, fresh)).get();
        if at == fresh {
            self.worlds.push(world);
            self.parents.push(parent);
        }
        at
    }

    /// Explores everything, or until the property that is searched for is violated.
    fn grow(&mut self) -> Vec<(&'static Property, u32)> {
        let mut violated: Vec<(&'static Property, u32)> = Vec::new();
        let mut successors = Vec::new();
        let mut at = 0;
        let mut level_ends = 1;
        while at < self.worlds.len() {
            if at == level_ends {
                self.depth += 1;
                level_ends = self.worlds.len();
            }
            let here = u32::try_from(at).expect("as above");
            let world = self.worlds[at];
            if self.setting.is_spent(&world) {
                self.cut += 1;
            } else {
                let still = self.setting.successors(&world, &mut successors);
                for property in PROPERTIES {
                    let fresh = !violated.iter().any(|(known, _)| known.name == property.name);
                    if self.search.wants(property)
                        && fresh
                        && property.is_violated(self.setting, &world, still)
                    {
                        violated.push((property, here));
                        if matches!(self.search, Search::Until(_)) {
                            return violated;
                        }
                    }
                }
                for (_, next) in successors.drain(..) {
                    let target = self.meet(next, here);
                    self.targets.push(target);
                }
            }
            self.starts.push(u32::try_from(self.targets.len()).expect("fewer than 2^32 edges"));
            at += 1;
        }
        violated
    }

    /// The action that leads from one world to the other.
    fn action(&self, from: u32, to: u32) -> Action {
        let mut successors = Vec::new();
        self.setting.successors(&self.worlds[from as usize], &mut successors);
        let target = self.worlds[to as usize];
        let found = successors.into_iter().find(|(_, next)| self.normal(*next) == target);
        found.expect("an edge of the graph").0
    }

    fn path(&self, mut at: u32) -> Trace {
        let mut steps = Vec::new();
        while at != 0 {
            let parent = self.parents[at as usize];
            steps.push(self.action(parent, at));
            at = parent;
        }
        steps.reverse();
        Trace { steps, cycle: Vec::new() }
    }

    fn edges(&self, of: u32) -> &[u32] {
        let of = of as usize;
        &self.targets[self.starts[of] as usize..self.starts[of + 1] as usize]
    }

    /// A way to go round: a strongly connected part in which nobody is left out who can always move. Faults are
    /// budgeted, so none is on a cycle. Where worlds that differ in names are one, names say nothing about who is left
    /// out, and every such part counts.
    fn livelock(&self) -> Option<Trace> {
        let mut parts = self.parts();
        for part in &mut parts {
            part.sort_unstable();
        }
        parts.sort_unstable_by_key(|part| part[0]);
        let part = parts.into_iter().find(|part| self.search == Search::Symmetric || self.is_fair(part))?;
        let entry = part[0];
        let cycle = self.cycle(&part);
        let mut trace = self.path(entry);
        trace.cycle = cycle.windows(2).map(|pair| self.action(pair[0], pair[1])).collect();
        Some(trace)
    }

    /// Whether everybody who can move in each world of the part moves in it somewhere.
    fn is_fair(&self, part: &[u32]) -> bool {
        let mut moves = 0u32;
        let mut always = u32::MAX;
        let mut successors = Vec::new();
        for at in part {
            let mut able = 0;
            self.setting.successors(&self.worlds[*at as usize], &mut successors);
            for ((action, _), target) in successors.iter().zip(self.edges(*at)) {
                if let Some(mover) = action.mover() {
                    able |= 1 << mover;
                    if part.binary_search(target).is_ok() {
                        moves |= 1 << mover;
                    }
                }
            }
            always &= able;
        }
        always & !moves == 0
    }

    /// The shortest way round through the part's first world.
    fn cycle(&self, part: &[u32]) -> Vec<u32> {
        let root = part[0];
        let mut before: Vec<Option<u32>> = vec![None; part.len()];
        let place = |world: u32| part.binary_search(&world).ok();
        let mut queue = std::collections::VecDeque::from([root]);
        while let Some(at) = queue.pop_front() {
            for target in self.edges(at) {
                let Some(index) = place(*target) else { continue };
                if *target == root {
                    let mut way = vec![root, at];
                    let mut back = at;
                    while back != root {
                        back = place(back).and_then(|index| before[index]).expect("a world that was reached");
                        way.push(back);
                    }
                    way.reverse();
                    return way;
                }
                if before[index].is_none() {
                    before[index] = Some(at);
                    queue.push_back(*target);
                }
            }
        }
        vec![root]
    }

    /// The strongly connected parts of more than one world (Tarjan, without recursion).
    fn parts(&self) -> Vec<Vec<u32>> {
        const UNSEEN: u32 = u32::MAX;
        let count = self.worlds.len();
        let mut order = vec![UNSEEN; count];
        let mut low = vec![0u32; count];
        let mut done = vec![false; count];
        let mut stack: Vec<u32> = Vec::new();
        let mut calls: Vec<(u32, u32)> = Vec::new();
        let mut next = 0;
        let mut parts = Vec::new();
        for root in 0..u32::try_from(count).expect("as above") {
            if order[root as usize] != UNSEEN {
                continue;
            }
            calls.push((root, self.starts[root as usize]));
            order[root as usize] = next;
            low[root as usize] = next;
            next += 1;
            stack.push(root);
            while let Some((at, edge)) = calls.last_mut() {
                let at = *at;
                if *edge < self.starts[at as usize + 1] {
                    let target = self.targets[*edge as usize];
                    *edge += 1;
                    if order[target as usize] == UNSEEN {
                        order[target as usize] = next;
                        low[target as usize] = next;
                        next += 1;
                        stack.push(target);
                        calls.push((target, self.starts[target as usize]));
                    } else if !done[target as usize] {
                        low[at as usize] = low[at as usize].min(order[target as usize]);
                    }
                    continue;
                }
                calls.pop();
                if let Some((above, _)) = calls.last() {
                    low[*above as usize] = low[*above as usize].min(low[at as usize]);
                }
                if low[at as usize] != order[at as usize] {
                    continue;
                }
                let from = stack.iter().rposition(|other| *other == at).expect("it is on the stack");
                let part = stack.split_off(from);
                for member in &part {
                    done[*member as usize] = true;
                }
                if part.len() > 1 {
                    parts.push(part);
                }
            }
        }
        parts
    }
}
