//! The machines of the protocol as one finite automaton.
//!
//! [`Automaton::of`] starts the protocol's [`Claim`](local_daemon_proto::claim::Claim) and
//! [`Connect`](local_daemon_proto::connect::Connect), tells them everything that an [`Alphabet`] allows until nothing new
//! comes of it, and then merges the states that no sequence of letters tells apart (Moore's partition refinement on
//! what [`Out`] shows). A world so holds a machine in two bytes, a step of a machine is a look into a table, and what
//! is explored is exactly what the crate does: the merging forgets only what can never matter again, such as which
//! dead record a call saw before the one that it waits on now.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock};

use crate::machine::{Alphabet, LETTERS, Letter, Names, Out, Root, Subject};

/// A machine's state: an index into the automaton.
pub type Local = u16;
/// No process.
pub const OFF: Local = 0;
/// A process that has gone and of which nothing matters any more.
pub const GONE: Local = 1;
const NOWHERE: Local = Local::MAX;

/// The machines' transitions, minimal.
#[derive(Debug)]
pub struct Automaton {
    roots: HashMap<Root, Local>,
    next: Vec<[Local; LETTERS]>,
    outs: Vec<Out>,
    /// For each renaming of the daemons, in the order of [`rank`], each state's counterpart.
    renamed: Vec<Vec<Local>>,
    /// For each state, a state that is the same for all its renamings.
    orbits: Vec<Local>,
    /// For each state, the ids that it mentions, a bit each.
    mentions: Vec<u8>,
}

impl Automaton {
    /// The automaton of an alphabet, computed once per process.
    pub fn of(alphabet: Alphabet) -> Arc<Self> {
        static KNOWN: OnceLock<Mutex<HashMap<Alphabet, Arc<Automaton>>>> = OnceLock::new();
        let known = KNOWN.get_or_init(Mutex::default);
        let mut known = known.lock().expect("no panic while it is held");
        Arc::clone(known.entry(alphabet).or_insert_with(|| Arc::new(Self::new(alphabet))))
    }

    fn new(alphabet: Alphabet) -> Self {
        let closure = Closure::of(alphabet);
        let classes = closure.classes();
        closure.quotient(&classes, alphabet)
    }

    /// The state that a machine starts in.
    pub fn start(&self, root: Root) -> Local {
        self.roots[&root]
    }

    /// What can be told of a machine in this state.
    pub fn out(&self, local: Local) -> Out {
        self.outs[usize::from(local)]
    }

    /// The state after a letter.
    pub fn step(&self, local: Local, letter: Letter) -> Local {
        let next = self.next[usize::from(local)][letter.index()];
        debug_assert_ne!(next, NOWHERE, "{letter:?} does not fit {:?}", self.out(local));
        next
    }

    /// The state with the daemons renamed; `rank` is that of the renaming.
    pub fn renamed(&self, local: Local, rank: usize) -> Local {
        self.renamed[rank][usize::from(local)]
    }

    /// A name that all renamings of a state share.
    pub fn orbit(&self, local: Local) -> Local {
        self.orbits[usize::from(local)]
    }

    /// Whether the state depends on this id.
    pub fn mentions(&self, local: Local, id: u8) -> bool {
        self.mentions[usize::from(local)] & (1 << id) != 0
    }

    /// How many states there are.
    pub fn states(&self) -> usize {
        self.outs.len()
    }
}

/// Every state that the machines can reach.
struct Closure {
    outs: Vec<Out>,
    edges: Vec<Vec<(Letter, u32)>>,
    roots: Vec<(Root, u32)>,
}

impl Closure {
    fn of(alphabet: Alphabet) -> Self {
        let mut subjects: Vec<Subject> = Vec::new();
        let mut known: HashMap<Subject, u32> = HashMap::new();
        let mut intern = |subject: Subject, subjects: &mut Vec<Subject>| -> u32 {
            *known.entry(subject).or_insert_with_key(|subject| {
                subjects.push(subject.clone());
                u32::try_from(subjects.len() - 1).expect("far fewer states")
            })
        };
        let roots = roots(alphabet).map(|root| (root, intern(Subject::new(root), &mut subjects))).collect();
        let mut edges = Vec::new();
        let mut outs = Vec::new();
        while edges.len() < subjects.len() {
            let subject = subjects[edges.len()].clone();
            outs.push(subject.out());
            let onward = subject.letters(alphabet).into_iter().map(|letter| {
                let mut next = subject.clone();
                next.hear(letter);
                (letter, intern(next, &mut subjects))
            });
            edges.push(onward.collect());
        }
        Self { outs, edges, roots }
    }

    /// The class of each state: equal where no sequence of letters tells two states apart.
    fn classes(&self) -> Vec<u32> {
        let mut classes = number(self.outs.iter().copied());
        let mut count = 0;
        loop {
            let refined = number((0..self.outs.len()).map(|state| {
                let onward: Vec<(usize, u32)> = self.edges[state]
                    .iter()
                    .map(|(letter, next)| (letter.index(), classes[*next as usize]))
                    .collect();
                (classes[state], onward)
            }));
            let refined_count = refined.iter().max().map_or(0, |last| last + 1);
            classes = refined;
            if refined_count == count {
                return classes;
            }
            count = refined_count;
        }
    }

    fn quotient(&self, classes: &[u32], alphabet: Alphabet) -> Automaton {
        // Discovered breadth first from the roots, so that a renaming can follow the same path.
        let mut local_of: HashMap<u32, Local> = HashMap::new();
        let mut members: Vec<usize> = Vec::new();
        let mut origins: Vec<Origin> = vec![Origin::Absent, Origin::Absent];
        let mut roots = HashMap::new();
        let mut meet = |state: u32, origin: Origin, members: &mut Vec<usize>, origins: &mut Vec<Origin>| {
            *local_of.entry(classes[state as usize]).or_insert_with(|| {
                members.push(state as usize);
                origins.push(origin);
                Local::try_from(origins.len() - 1).expect("an automaton of less than 65535 states")
            })
        };
        for (root, state) in &self.roots {
            let local = meet(*state, Origin::Root(*root), &mut members, &mut origins);
            roots.insert(*root, local);
        }
        let mut next = vec![[NOWHERE; LETTERS]; 2];
        let mut at = 0;
        while at < members.len() {
            let from = Local::try_from(at + 2).expect("as above");
            let mut row = [NOWHERE; LETTERS];
            for (letter, state) in &self.edges[members[at]] {
                let origin = Origin::Step(from, *letter);
                row[letter.index()] = meet(*state, origin, &mut members, &mut origins);
            }
            next.push(row);
            at += 1;
        }
        let outs = [Out::NOTHING; 2]
            .into_iter()
            .chain(members.iter().map(|state| self.outs[*state]))
            .collect();

        let follow = |names: Names| {
            let mut renamed: Vec<Local> = Vec::with_capacity(origins.len());
            for (state, origin) in origins.iter().enumerate() {
                renamed.push(match origin {
                    Origin::Absent => Local::try_from(state).expect("0 or 1"),
                    Origin::Root(root) => roots[&root.renamed(names)],
                    Origin::Step(from, letter) => {
                        let row = &next[usize::from(renamed[usize::from(*from)])];
                        row[letter.renamed(names).index()]
                    }
                });
            }
            renamed
        };
        let renamed: Vec<Vec<Local>> =
            renamings(usize::from(alphabet.ids) - 1).into_iter().map(follow).collect();
        let orbits = (0..origins.len())
            .map(|state| renamed.iter().map(|by| by[state]).min().unwrap_or(OFF))
            .collect();
        let spare = usize::from(alphabet.ids) - 1;
        let mut mentions = vec![0; origins.len()];
        for id in 0..spare {
            let mut names = IDENTITY;
            names.swap(id, spare);
            for (state, other) in follow(names).into_iter().enumerate() {
                mentions[state] |= u8::from(usize::from(other) != state) << id;
            }
        }
        Automaton { roots, next, outs, renamed, orbits, mentions }
    }
}

#[derive(Clone, Copy)]
enum Origin {
    Absent,
    Root(Root),
    Step(Local, Letter),
}

const IDENTITY: Names = [0, 1, 2, 3, 4, 5];

fn roots(alphabet: Alphabet) -> impl Iterator<Item = Root> {
    let both = [false, true];
    let daemons = (0..alphabet.ids).flat_map(move |id| {
        (1..=alphabet.protocols)
            .flat_map(move |protocol| both.map(move |yields| Root::Daemon { id, protocol, yields }))
    });
    let calls = (1..=alphabet.protocols).flat_map(move |protocol| {
        [(false, false), (true, false), (true, true)].map(move |(spawn, replace)| Root::Call {
            protocol,
            spawn,
            replace,
        })
    });
    daemons.chain(calls)
}

fn number<T: Eq + Hash>(values: impl Iterator<Item = T>) -> Vec<u32> {
    let mut known = HashMap::new();
    values
        .map(|value| {
            let fresh = u32::try_from(known.len()).expect("far fewer states");
            *known.entry(value).or_insert(fresh)
        })
        .collect()
}

/// All renamings of the first `count` daemons, in the order of their [`rank`].
pub fn renamings(count: usize) -> Vec<Names> {
    let total: usize = (1..=count).product();
    let mut all = vec![IDENTITY; total];
    permute(IDENTITY, 0, count, &mut |names| all[rank(names, count)] = names);
    all
}

fn permute(mut names: Names, at: usize, count: usize, found: &mut impl FnMut(Names)) {
    if at == count {
        return found(names);
    }
    for other in at..count {
        names.swap(at, other);
        permute(names, at + 1, count, found);
        names.swap(at, other);
    }
}

/// The number of a renaming among those of `count` daemons (its Lehmer code).
pub fn rank(names: Names, count: usize) -> usize {
    (0..count).fold(0, |rank, at| {
        let smaller = names[at + 1..count].iter().filter(|name| **name < names[at]).count();
        rank * (count - at) + smaller
    })
}
