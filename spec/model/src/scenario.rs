//! Who is there at the start, what may go wrong, and which rule is left out.

use crate::machine::{Alphabet, DAEMONS};

/// The most clients that a world holds.
pub const CLIENTS: usize = 3;
/// A client that connects again for ever.
pub const ENDLESS: u8 = u8::MAX;

/// One client of a scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Calls connect-or-spawn.
    Caller {
        /// Its protocol's number.
        protocol: u8,
        /// Whether it goes on without ever asking for the lock.
        ignores_lock: bool,
        /// Whether it, and what it starts, runs in a sandbox with a network of its own.
        sandboxed: bool,
    },
    /// Starts a daemon by hand and starts it again when it dies.
    Supervisor,
}

/// A caller of the first generation that does everything right.
pub const CALLER: Kind = Kind::Caller { protocol: 1, ignores_lock: false, sandboxed: false };
/// The same of the next generation.
pub const NEWER: Kind = Kind::Caller { protocol: 2, ignores_lock: false, sandboxed: false };
/// A caller of another implementation, whose lock does not exclude anybody.
pub const LOCKLESS: Kind = Kind::Caller { protocol: 1, ignores_lock: true, sandboxed: false };
/// A caller in a sandbox that shares the state directory and has a network of its own.
pub const SANDBOXED: Kind = Kind::Caller { protocol: 1, ignores_lock: false, sandboxed: true };

/// How often each thing may go wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Faults {
    /// A process dies (SIGKILL), at any step.
    pub crash: u8,
    /// A process is stopped (SIGSTOP), at any step, and goes on (SIGCONT) at any later one, or never.
    pub pause: u8,
    /// A daemon is asked to stop (SIGTERM), at any step.
    pub stop: u8,
    /// Somebody deletes the record.
    pub remove: u8,
}

impl Faults {
    /// Never.
    pub const NONE: Self = Self { crash: 0, pause: 0, stop: 0, remove: 0 };
}

/// One rule of the protocol, left out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Deviation {
    /// A stopping daemon reads, compares and unlinks.
    LiteralRemoval,
    /// It does so under the lock, which publishers wait for too.
    LockedRemoval,
    /// It takes, and puts back what was another's.
    PutBack,
    /// A daemon whose record is gone stands down without looking for taken files.
    NoReclaim,
    /// A serving daemon does not read the record again.
    NoReread,
    /// A client deletes the record of a daemon that it could not reach, after comparing.
    ClientsRemove,
    /// Whoever proves itself counts as the record's daemon.
    NoIdCheck,
    /// A daemon publishes, and listens then.
    PublishFirst,
    /// A first launch renames its credential over the name.
    OverwriteCredential,
    /// All daemons write their record to a temporary file of one name.
    SharedTemporary,
    /// Each generation displaces the other.
    DisplaceBothWays,
    /// A client waits for the record of its own child alone.
    OwnChildOnly,
    /// A call has no deadline.
    NoDeadline,
    /// A supervisor restarts a daemon that was displaced.
    RestartDisplaced,
    /// Children of clients publish unconditionally.
    ChildrenDoNotYield,
    /// A daemon says `ready` without a look at the record.
    ReadyUnseen,
    /// A daemon that cannot be asked counts as gone.
    UnreachableIsGone,
    /// A daemon of another network namespace counts as alive for good.
    NoLifeLock,
}

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// The protocol number of each daemon that a person starts, all at once.
    pub daemons: &'static [u8],
    /// How many of these, from the first on, run in the sandbox.
    pub sandboxed: u8,
    /// The clients.
    pub clients: &'static [Kind],
    /// How many daemons there may be in all, one after the other too, [`DAEMONS`] at most.
    pub slots: u8,
    /// How often each client calls: again whenever its daemon leaves.
    pub calls: u8,
    /// Whether the record of a dead daemon is there at the start.
    pub stale: bool,
    /// Whether somebody without the credential listens at that dead daemon's port.
    pub squatter: bool,
    /// Whether a new daemon may get that port.
    pub reuse: bool,
    /// Whether the credential has yet to be made.
    pub first_launch: bool,
    /// What may go wrong.
    pub faults: Faults,
    /// Whether clients crash and are stopped too.
    pub frail_clients: bool,
    /// Whether a call's deadline may pass at any time, and not only when nothing else can happen.
    pub hurried: bool,
    /// Whether ids are given out again when nothing refers to them any more, so that a world can go on for ever.
    pub recycled: bool,
    /// The rule that is left out.
    pub deviation: Option<Deviation>,
}

impl Scenario {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            daemons: &[],
            sandboxed: 0,
            clients: &[],
            slots: 4,
            calls: 1,
            stale: false,
            squatter: false,
            reuse: false,
            first_launch: false,
            faults: Faults::NONE,
            frail_clients: false,
            hurried: false,
            recycled: false,
            deviation: None,
        }
    }

    /// Who is there, for a table.
    pub fn cast(&self) -> String {
        let newer = |protocol: &u8| *protocol > 1;
        let daemons = self.daemons.iter();
        let callers = |is: fn(&Kind) -> bool| self.clients.iter().filter(|kind| is(kind)).count();
        let count = |count: usize, what: &str| {
            (count > 0).then(|| format!("{count} {what}{}", if count > 1 { "s" } else { "" }))
        };
        let parts = [
            count(daemons.clone().filter(|protocol| !newer(protocol)).count(), "daemon"),
            count(daemons.filter(|protocol| newer(protocol)).count(), "newer daemon"),
            count(callers(|kind| *kind == CALLER), "client"),
            count(callers(|kind| *kind == NEWER), "newer client"),
            count(callers(|kind| *kind == LOCKLESS), "lockless client"),
            count(callers(|kind| *kind == SANDBOXED), "sandboxed client"),
            count(callers(|kind| *kind == Kind::Supervisor), "supervisor"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// What there is besides and what may go wrong, for a table.
    pub fn conditions(&self) -> String {
        let times = |count: u8, what: &str| {
            (count > 0).then(|| if count == 1 { what.to_owned() } else { format!("{count} {what}s") })
        };
        let when = |is: bool, what: &str| is.then(|| what.to_owned());
        let parts = [
            match self.sandboxed {
                0 => None,
                1 => Some("a daemon in the sandbox".to_owned()),
                more => Some(format!("{more} daemons in the sandbox")),
            },
            when(self.stale, "a stale record"),
            when(self.squatter, "a squatter at its port"),
            when(self.reuse, "its port reused"),
            when(self.first_launch, "no credential yet"),
            times(self.faults.stop, "stop"),
            times(self.faults.crash, "crash"),
            times(self.faults.pause, "pause"),
            times(self.faults.remove, "removal"),
            when(self.frail_clients, "of clients too"),
            when(self.hurried, "deadlines at any time"),
            when(self.recycled, "for ever"),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
    }

    /// Whether there is a sandbox with a network of its own.
    pub fn has_sandbox(&self) -> bool {
        self.sandboxed > 0 || self.clients.contains(&SANDBOXED)
    }

    /// Whether this rule is left out.
    pub fn lacks(&self, rule: Deviation) -> bool {
        self.deviation == Some(rule)
    }

    /// What the machines may come to hear here.
    pub fn alphabet(&self) -> Alphabet {
        assert!(usize::from(self.slots) <= DAEMONS && self.clients.len() <= CLIENTS);
        let newer = |kind: &Kind| matches!(kind, Kind::Caller { protocol: 2, .. });
        let two = self.daemons.contains(&2) || self.clients.iter().any(newer);
        Alphabet {
            ids: self.slots + 1,
            protocols: if two { 2 } else { 1 },
            mixed: self.reuse,
            pauses: self.faults.pause > 0,
            torn: self.lacks(Deviation::SharedTemporary),
            foreign: self.squatter || self.first_launch,
            places: self.has_sandbox(),
        }
    }
}

/// The scenario of this name that `check` explores.
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

macro_rules! scenario {
    ($name:literal $(, $field:ident: $value:expr)* $(,)?) => {
        Scenario { $($field: $value,)* ..Scenario::new($name) }
    };
}

macro_rules! faults {
    ($($field:ident: $value:expr),*) => {{
        let mut faults = Faults::NONE;
        $(faults.$field = $value;)*
        faults
    }};
}

/// What `check` explores: every rule in place.
pub const SCENARIOS: &[Scenario] = &[
    scenario!("two-daemons-stop", daemons: &[1; 2], slots: 2, faults: faults!(stop: 1)),
    scenario!("three-daemons-two-stops", daemons: &[1; 3], slots: 3, faults: faults!(stop: 2)),
    scenario!("three-daemons-stop-crash", daemons: &[1; 3], slots: 3, faults: faults!(stop: 1, crash: 1)),
    scenario!("three-daemons-stop-pause", daemons: &[1; 3], slots: 3, faults: faults!(stop: 1, pause: 1)),
    scenario!("two-daemons-stop-removal", daemons: &[1; 2], slots: 2, faults: faults!(stop: 1, remove: 1)),
    scenario!("two-clients-cold", clients: &[CALLER; 2], calls: 2),
    scenario!("two-clients-stale", clients: &[CALLER; 2], calls: 2, stale: true),
    scenario!("two-clients-squatter", clients: &[CALLER; 2], calls: 2, stale: true, squatter: true),
    scenario!("three-clients-stale", clients: &[CALLER; 3], stale: true),
    scenario!("daemon-two-clients-pause", daemons: &[1], clients: &[CALLER; 2], faults: faults!(pause: 1)),
    scenario!("daemon-two-clients-stop-crash", daemons: &[1], clients: &[CALLER; 2], calls: 2,
        faults: faults!(stop: 1, crash: 1)),
    scenario!("two-daemons-client-stop-crash-pause", daemons: &[1; 2], clients: &[CALLER], calls: 2,
        faults: faults!(stop: 1, crash: 1, pause: 1)),
    scenario!("three-daemons-two-stops-crash-pause", daemons: &[1; 3], slots: 3,
        faults: faults!(stop: 2, crash: 1, pause: 1)),
    scenario!("three-daemons-two-stops-crash-two-pauses-removal", daemons: &[1; 3], slots: 3,
        faults: faults!(stop: 2, crash: 1, pause: 2, remove: 1)),
    scenario!("daemon-two-frail-clients", daemons: &[1], clients: &[CALLER; 2], slots: 3,
        faults: faults!(stop: 1, crash: 1, pause: 1), frail_clients: true),
    scenario!("three-clients-crash", clients: &[CALLER; 3], slots: 3, faults: faults!(crash: 1)),
    scenario!("three-clients-stop-pause", clients: &[CALLER; 3], slots: 3, faults: faults!(stop: 1, pause: 1)),
    scenario!("four-daemons-two-stops-crash-pause", daemons: &[1; 4],
        faults: faults!(stop: 2, crash: 1, pause: 1)),
    scenario!("two-daemons-two-clients-stop-crash", daemons: &[1; 2], clients: &[CALLER; 2],
        faults: faults!(stop: 1, crash: 1)),
    scenario!("two-daemons-three-clients-crash", daemons: &[1; 2], clients: &[CALLER; 3], slots: 3,
        faults: faults!(crash: 1)),
    scenario!("three-daemons-three-clients-crash-pause", daemons: &[1; 3], clients: &[CALLER; 3],
        faults: faults!(crash: 1, pause: 1)),
    scenario!("two-clients-hurried", clients: &[CALLER; 2], stale: true, hurried: true, faults: faults!(stop: 1)),
    scenario!("two-clients-lockless", clients: &[CALLER, LOCKLESS], calls: 2, stale: true),
    scenario!("three-clients-lockless-crash", clients: &[LOCKLESS; 3], faults: faults!(crash: 1)),
    scenario!("two-clients-lockless-stop-pause", daemons: &[1], clients: &[LOCKLESS; 2], slots: 3,
        faults: faults!(stop: 1, pause: 1)),
    scenario!("daemon-two-clients-removal-pause", daemons: &[1], clients: &[CALLER; 2], calls: 2,
        faults: faults!(remove: 1, pause: 1)),
    scenario!("two-generations", clients: &[CALLER, NEWER], calls: ENDLESS, recycled: true),
    scenario!("two-generations-lockless-crash", clients: &[LOCKLESS, NEWER], calls: ENDLESS, recycled: true,
        faults: faults!(crash: 1)),
    scenario!("three-clients-endless-stop-crash", clients: &[CALLER; 3], calls: ENDLESS, recycled: true,
        faults: faults!(stop: 1, crash: 1)),
    scenario!("two-generations-daemon", daemons: &[1], clients: &[CALLER, NEWER, NEWER],
        faults: faults!(crash: 1)),
    scenario!("two-supervisors", clients: &[Kind::Supervisor; 2], recycled: true),
    scenario!("two-supervisors-client-crash", clients: &[Kind::Supervisor, Kind::Supervisor, CALLER],
        recycled: true, faults: faults!(crash: 1)),
    scenario!("first-launches", daemons: &[1; 3], clients: &[CALLER], first_launch: true),
    scenario!("first-clients", clients: &[CALLER; 2], first_launch: true, faults: faults!(crash: 1)),
    scenario!("two-lockless-clients-hurried-stop-crash-pause", clients: &[LOCKLESS; 2], calls: 2, stale: true,
        hurried: true, faults: faults!(stop: 1, crash: 1, pause: 1)),
    scenario!("two-daemon-generations-removal-crash", daemons: &[1, 2], clients: &[CALLER, NEWER], slots: 5,
        faults: faults!(remove: 1, crash: 1)),
    scenario!("supervisor-two-generations-stop", clients: &[Kind::Supervisor, LOCKLESS, NEWER], slots: 5,
        recycled: true, faults: faults!(stop: 1)),
    scenario!("four-daemons-everything", daemons: &[1; 4],
        faults: faults!(stop: 3, crash: 1, pause: 2, remove: 1)),
    scenario!("five-daemons-three-stops-crash-pause", daemons: &[1; 5], slots: 5,
        faults: faults!(stop: 3, crash: 1, pause: 1)),
    scenario!("three-lockless-clients-port-reused-stop", clients: &[LOCKLESS; 3], slots: 3, stale: true, reuse: true,
        faults: faults!(stop: 1)),
    scenario!("daemon-sandboxed-client-stop-crash", daemons: &[1], clients: &[SANDBOXED, CALLER], slots: 3,
        faults: faults!(stop: 1, crash: 1)),
    scenario!("sandboxed-daemon-two-clients-crash", daemons: &[1], sandboxed: 1, clients: &[CALLER; 2], calls: 2,
        faults: faults!(stop: 1, crash: 1)),
    scenario!("two-places-cold-crash", clients: &[CALLER, SANDBOXED], calls: 2, faults: faults!(crash: 1)),
    scenario!("a-daemon-in-each-place", daemons: &[1; 2], sandboxed: 1, clients: &[CALLER, SANDBOXED],
        faults: faults!(crash: 1)),
    scenario!("port-reused", clients: &[CALLER; 2], slots: 3, stale: true, reuse: true),
];
