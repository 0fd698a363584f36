//! Each mending rule left out, and the counterexample that this must lead to.

use crate::explore::{Report, Search, Trace, explore};
use crate::property::{PROPERTIES, Property, property};
use crate::scenario::{CALLER, Deviation, ENDLESS, Faults, Kind, LOCKLESS, NEWER, SANDBOXED, Scenario};
use crate::world::Setting;

/// One rule left out.
#[derive(Clone, Copy, Debug)]
pub struct Ablation {
    /// Its name on the command line, and of its trace.
    pub name: &'static str,
    /// What is done instead of the rule.
    pub instead: &'static str,
    /// The requirements that state the rule.
    pub rules: &'static [&'static str],
    /// The property that breaks.
    pub breaks: &'static str,
    /// The smallest scenario found in which it breaks.
    pub scenario: Scenario,
}

impl Ablation {
    /// The property that breaks.
    pub fn property(&self) -> &'static Property {
        property(self.breaks).expect("the name of a property")
    }

    /// The scenario with its machines; only the named property's breach is remembered, so that the shortest way to it
    /// is found among the fewest worlds.
    pub fn setting(&self) -> Setting {
        Setting::new(self.scenario, self.property().breach)
    }

    /// A shortest counterexample.
    pub fn counterexample(&self) -> Option<Trace> {
        self.search().violations.pop().map(|(_, trace)| trace)
    }

    /// The search for it.
    pub fn search(&self) -> Report {
        explore(&self.setting(), Search::Until(self.breaks))
    }

    /// Everything that the scenario leads to without the rule, or with it.
    pub fn whole(&self, with_rule: bool) -> Report {
        let scenario = Scenario {
            deviation: self.scenario.deviation.filter(|_| !with_rule),
            ..self.scenario
        };
        let breaches = PROPERTIES.iter().fold(0, |all, property| all | property.breach);
        explore(&Setting::new(scenario, breaches), Search::Named)
    }
}

/// The ablation of this name.
pub fn ablation(name: &str) -> Option<&'static Ablation> {
    ABLATIONS.iter().find(|ablation| ablation.name == name)
}

const fn without(rule: Deviation) -> Scenario {
    Scenario { deviation: Some(rule), ..Scenario::new("") }
}

const ONE_STOP: Faults = Faults { stop: 1, ..Faults::NONE };

/// All of them.
pub const ABLATIONS: &[Ablation] = &[
    Ablation {
        name: "literal-removal",
        instead: "A daemon that stops reads the record, compares the id and unlinks the well-known name.",
        rules: &["CONV-15"],
        breaks: "last-writer-wins",
        scenario: Scenario {
            daemons: &[1; 2],
            slots: 2,
            faults: ONE_STOP,
            ..without(Deviation::LiteralRemoval)
        },
    },
    Ablation {
        name: "lock-only-removal",
        instead: "It does so under the lock, which every publisher waits for, as long as its holder is not stopped.",
        rules: &["CONV-15", "PUB-8"],
        breaks: "last-writer-wins",
        scenario: Scenario {
            daemons: &[1; 2],
            slots: 2,
            faults: Faults { pause: 1, ..ONE_STOP },
            ..without(Deviation::LockedRemoval)
        },
    },
    Ablation {
        name: "put-back",
        instead: "A daemon that took another's record puts it back under the well-known name.",
        rules: &["CONV-17"],
        breaks: "last-writer-wins",
        scenario: Scenario {
            daemons: &[1; 3],
            slots: 3,
            faults: ONE_STOP,
            ..without(Deviation::PutBack)
        },
    },
    Ablation {
        name: "no-reclaim",
        instead: "A daemon whose record is gone stands down without looking for taken files.",
        rules: &["CONV-21"],
        breaks: "last-writer-wins",
        scenario: Scenario {
            daemons: &[1; 2],
            slots: 2,
            faults: ONE_STOP,
            ..without(Deviation::NoReclaim)
        },
    },
    Ablation {
        name: "no-reread",
        instead: "A daemon that serves does not read the record again.",
        rules: &["CONV-1"],
        breaks: "one-owner",
        scenario: Scenario { daemons: &[1; 2], clients: &[CALLER], ..without(Deviation::NoReread) },
    },
    Ablation {
        name: "clients-remove",
        instead: "A client reads, compares and unlinks the record of a daemon that it could not reach.",
        rules: &["CONV-29"],
        breaks: "no-collateral",
        scenario: Scenario {
            clients: &[CALLER; 2],
            stale: true,
            ..without(Deviation::ClientsRemove)
        },
    },
    Ablation {
        name: "no-id-check",
        instead: "Whoever proves itself counts as the record's daemon, whatever id it gives.",
        rules: &["HS-27", "CONN-4"],
        breaks: "connected-as-recorded",
        scenario: Scenario {
            daemons: &[1],
            clients: &[CALLER],
            slots: 3,
            stale: true,
            reuse: true,
            ..without(Deviation::NoIdCheck)
        },
    },
    Ablation {
        name: "publish-before-listen",
        instead: "A daemon publishes first and listens then.",
        rules: &["PUB-4"],
        breaks: "found-is-served",
        scenario: Scenario { daemons: &[1], clients: &[CALLER], ..without(Deviation::PublishFirst) },
    },
    Ablation {
        name: "credential-by-overwrite",
        instead: "A first launch renames its credential over the name instead of linking it there.",
        rules: &["CRED-3", "CRED-4"],
        breaks: "one-credential",
        scenario: Scenario {
            daemons: &[1; 2],
            slots: 2,
            first_launch: true,
            ..without(Deviation::OverwriteCredential)
        },
    },
    Ablation {
        name: "shared-temporary-name",
        instead: "All daemons write their record to a temporary file of one name.",
        rules: &["PUB-5"],
        breaks: "whole-record",
        scenario: Scenario { daemons: &[1; 2], slots: 2, ..without(Deviation::SharedTemporary) },
    },
    Ablation {
        name: "own-child-only",
        instead: "A client that waits looks at the record of its own child alone.",
        rules: &["CONN-24", "CONN-25"],
        breaks: "all-served",
        scenario: Scenario { daemons: &[1], clients: &[CALLER], ..without(Deviation::OwnChildOnly) },
    },
    Ablation {
        name: "no-deadline",
        instead: "A call waits as long as it takes.",
        rules: &["CONN-10"],
        breaks: "not-stuck",
        scenario: Scenario { clients: &[CALLER], faults: ONE_STOP, ..without(Deviation::NoDeadline) },
    },
    Ablation {
        name: "displacement-both-ways",
        instead: "A client displaces an incompatible daemon whatever its number.",
        rules: &["GATE-8"],
        breaks: "no-livelock",
        scenario: Scenario {
            clients: &[CALLER, NEWER],
            calls: ENDLESS,
            recycled: true,
            ..without(Deviation::DisplaceBothWays)
        },
    },
    Ablation {
        name: "restart-of-the-displaced",
        instead: "A supervisor restarts its daemon also when that was displaced.",
        rules: &["CONV-12", "CONV-32"],
        breaks: "no-livelock",
        scenario: Scenario {
            clients: &[Kind::Supervisor; 2],
            recycled: true,
            ..without(Deviation::RestartDisplaced)
        },
    },
    Ablation {
        name: "children-do-not-yield",
        instead: "A client's child publishes unconditionally.",
        rules: &["CONN-22", "CONV-26"],
        breaks: "spared",
        scenario: Scenario { clients: &[LOCKLESS; 2], ..without(Deviation::ChildrenDoNotYield) },
    },
    Ablation {
        name: "ready-unseen",
        instead: "A daemon says ready until it has noticed its displacement by itself.",
        rules: &["HS-15", "HS-16"],
        breaks: "ready-owns",
        scenario: Scenario {
            daemons: &[1; 2],
            clients: &[CALLER],
            ..without(Deviation::ReadyUnseen)
        },
    },
    Ablation {
        name: "unreachable-is-gone",
        instead: "A client that cannot ask takes the daemon for gone, and so does its child.",
        rules: &["CONN-37", "CONN-38", "CONN-41", "CONV-35"],
        breaks: "spared",
        scenario: Scenario {
            daemons: &[1],
            clients: &[SANDBOXED],
            slots: 2,
            ..without(Deviation::UnreachableIsGone)
        },
    },
    Ablation {
        name: "no-life-lock",
        instead: "The record of another network namespace counts as unreachable, whether its daemon lives or not.",
        rules: &["CONN-41", "REG-15"],
        breaks: "not-shut-out",
        scenario: Scenario {
            daemons: &[1],
            sandboxed: 1,
            clients: &[CALLER],
            slots: 2,
            faults: Faults { crash: 1, ..Faults::NONE },
            ..without(Deviation::NoLifeLock)
        },
    },
];
