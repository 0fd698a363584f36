//! What must hold, each by name, with the requirements that it guards.
//!
//! A safety property is judged in every world, most of them on a breach that the world remembers
//! ([`broken`]). A property "at quiescence" is judged where nobody can move, nobody is stopped, and every call
//! has ended: what holds there holds for ever. `no-livelock` is judged on the whole graph: there is no way to go on for
//! ever without a fault and without leaving anybody out.

use crate::machine::End;
use crate::world::{Phase, Setting, Stillness, World, broken};

/// One property.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// Its name in tables and traces.
    pub name: &'static str,
    /// What it says.
    pub says: &'static str,
    /// The requirements that it guards.
    pub guards: &'static [&'static str],
    /// The breach that its violation leaves in a world, for a property that is judged on one.
    pub breach: u16,
    judge: Judge,
}

#[derive(Clone, Copy, Debug)]
enum Judge {
    /// The world remembers it.
    Breach,
    /// Looked at where all is settled.
    Settled(fn(&Setting, &World) -> bool),
    /// Looked at in every world.
    Always(fn(&Setting, &World, Stillness) -> bool),
    /// Looked for in the graph.
    Cycle,
}

impl Property {
    /// Whether this world violates it.
    pub fn is_violated(&self, setting: &Setting, world: &World, still: Stillness) -> bool {
        match self.judge {
            Judge::Breach => world.broken & self.breach != 0,
            Judge::Settled(violated) => still == Stillness::Settled && violated(setting, world),
            Judge::Always(violated) => violated(setting, world, still),
            Judge::Cycle => false,
        }
    }

    /// Whether it is judged on the graph as a whole.
    pub fn is_of_cycles(&self) -> bool {
        matches!(self.judge, Judge::Cycle)
    }
}

/// All of them.
pub const PROPERTIES: &[Property] = &[
    breach("whole-record", "No torn record is ever read.", &["PUB-3", "PUB-5"], broken::TORN),
    breach(
        "own-removal",
        "The record of a running daemon is deleted by nobody but that daemon (or a person).",
        &["CONV-9", "CONV-15", "CONV-17", "CONV-29"],
        broken::REMOVED,
    ),
    breach(
        "no-collateral",
        "The newest daemon does not stand down because another process's clean-up took its record away.",
        &["CONV-15", "CONV-21", "CONV-29"],
        broken::COLLATERAL,
    ),
    breach(
        "found-is-served",
        "The record of a running daemon never leads to a closed port.",
        &["PUB-4"],
        broken::UNANSWERED,
    ),
    breach(
        "ready-owns",
        "A daemon that says ready owns the record at that moment.",
        &["HS-15", "HS-16", "CONV-11"],
        broken::LOSER,
    ),
    breach(
        "connected-as-recorded",
        "A client is connected to the daemon whose id stood in the record that it read.",
        &["HS-27", "CONN-4", "CONV-31"],
        broken::MISTAKEN,
    ),
    breach(
        "spared",
        "A client's child never displaces a compatible daemon that was ready before the child was started and still is.",
        &["CONN-22", "CONN-38", "CONV-26", "CONV-35"],
        broken::CHURN,
    ),
    Property {
        name: "one-credential",
        says: "No credential is replaced by a start, and every running daemon ends with the one in the file.",
        guards: &["CRED-3", "CRED-4", "CRED-5"],
        breach: broken::CREDENTIAL,
        judge: Judge::Always(|setting, world, still| {
            let other = |daemon: &u8| !setting.has_credential(world, *daemon);
            world.broken & broken::CREDENTIAL != 0
                || still == Stillness::Settled && setting.running(world).iter().any(other)
        }),
    },
    settled(
        "one-owner",
        "At quiescence at most one daemon runs, and it owns the record.",
        &["CONV-1", "CONV-7", "CONV-8", "CONV-13"],
        |setting, world| {
            let running = setting.running(world);
            running.len() > 1 || running.iter().any(|daemon| setting.owner(world) != Some(*daemon))
        },
    ),
    settled(
        "one-is-up",
        "At quiescence, where nothing has gone wrong, a daemon runs.",
        &["CONV-13", "CONV-27", "CONN-15"],
        |setting, world| setting.is_faultless(world) && setting.running(world).is_empty(),
    ),
    settled(
        "last-writer-wins",
        "At quiescence the daemon that published last runs, unless it was killed, was asked to stop, or a person deleted its record.",
        &["PUB-7", "CONV-13", "CONV-17", "CONV-21"],
        |setting, world| {
            let heir = setting.heir(world);
            heir.is_some_and(|heir| !setting.running(world).contains(&heir))
        },
    ),
    settled(
        "discoverable",
        "No daemon runs for ever where a connect of its protocol does not find it ready.",
        &["CONV-13", "HS-13", "CONN-4"],
        |setting, world| {
            setting.running(world).into_iter().any(|daemon| {
                let protocol = setting.protocol_of(world, daemon);
                let found = setting.connects(world, protocol, setting.runs_in_sandbox(world, daemon));
                found != Some(End::Ready(daemon))
            })
        },
    ),
    settled(
        "all-served",
        "Where nothing has gone wrong, every client ends connected to the daemon that is left, or learns at once that it is of another generation or in another network namespace, without waiting for its deadline.",
        &["CONN-13", "CONN-15", "CONN-24", "CONN-25"],
        |setting, world| {
            let running = setting.running(world);
            setting.is_faultless(world)
                && setting.callers(world).any(|(_, _, phase)| match phase {
                    Phase::Connected(daemon) => !running.contains(&daemon),
                    Phase::Failed => true,
                    _ => false,
                })
        },
    ),
    settled(
        "reachable",
        "Whatever went wrong, a client's next connect finds the daemon that is left: ready, of another generation and named so, or unreachable in another network namespace.",
        &["CONN-11", "CONN-14", "CONN-41", "GATE-7"],
        |setting, world| {
            let left = setting.running(world);
            let misses = |(protocol, sandboxed, _)| {
                let found = setting.connects(world, protocol, sandboxed);
                left.iter().any(|daemon| {
                    let same = setting.protocol_of(world, *daemon) == protocol;
                    found
                        != Some(match setting.runs_in_sandbox(world, *daemon) == sandboxed {
                            false => End::Not("unreachable"),
                            true if same => End::Ready(*daemon),
                            true => End::Not("incompatible"),
                        })
                })
            };
            setting.callers(world).any(misses)
        },
    ),
    settled(
        "not-shut-out",
        "At quiescence no client's next connect is unreachable while no daemon runs.",
        &["CONN-40", "CONN-41"],
        |setting, world| {
            let shut_out = |(protocol, sandboxed, _)| {
                setting.connects(world, protocol, sandboxed) == Some(End::Not("unreachable"))
            };
            setting.running(world).is_empty() && setting.callers(world).any(shut_out)
        },
    ),
    settled(
        "told",
        "At quiescence nobody is connected to a daemon that was displaced or has gone.",
        &["CONV-8", "CONV-10"],
        |setting, world| {
            setting.phases(world).any(|phase| match phase {
                Phase::Connected(daemon) => setting.owner(world) != Some(daemon),
                _ => false,
            })
        },
    ),
    Property {
        name: "not-stuck",
        says: "No call stays unfinished: where nobody else can move, its deadline ends it.",
        guards: &["CONN-10", "CONN-17", "CONN-19"],
        breach: 0,
        judge: Judge::Always(|setting, world, still| {
            let open = |phase| matches!(phase, Phase::Calling | Phase::Starting);
            still == Stillness::Settled && setting.phases(world).any(open)
        }),
    },
    Property {
        name: "no-livelock",
        says: "There is no way to go on for ever, without a fault and without leaving out anybody who could move.",
        guards: &["GATE-8", "CONV-11", "CONV-32", "CONN-20"],
        breach: 0,
        judge: Judge::Cycle,
    },
];

const fn breach(
    name: &'static str,
    says: &'static str,
    guards: &'static [&'static str],
    breach: u16,
) -> Property {
    Property { name, says, guards, breach, judge: Judge::Breach }
}

const fn settled(
    name: &'static str,
    says: &'static str,
    guards: &'static [&'static str],
    violated: fn(&Setting, &World) -> bool,
) -> Property {
    Property { name, says, guards, breach: 0, judge: Judge::Settled(violated) }
}

/// The property of this name.
pub fn property(name: &str) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.name == name)
}
