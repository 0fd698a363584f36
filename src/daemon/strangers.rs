//! Which connections are served, and which are evicted for others: those on which no request has authenticated are counted
//! by the user at their other end (PER-43). It does no I/O and reads no clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a stranger has to send a whole head before it is evicted sooner than those that have sent one.
const HEAD_GRACE: Duration = Duration::from_millis(250);

/// The user at the other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum User {
    /// The daemon's own.
    Owner,
    /// Another one.
    Other(u32),
    /// One that the system does not report.
    Unknown,
}

/// How many connections are let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The most that are served.
    pub(super) all: usize,
    /// The most strangers of which it is not known that they are the daemon's own user's.
    pub(super) others: usize,
    /// How many more may ask for the handshake alone.
    pub(super) reserve: usize,
}

/// The place of one connection.
pub(super) type Place = u64;

/// What becomes of a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is served.
    Served(Place),
    /// It is answered the handshake, and nothing else.
    HandshakeOnly(Place),
    /// It is answered 503.
    Overloaded,
    /// It is closed.
    Closed,
}

/// All connections: each stranger, in the order of arrival, and the number of those that have authenticated.
#[derive(Debug)]
pub(super) struct Strangers<T> {
    limits: Limits,
    next: Place,
    owners: BTreeMap<Place, Stranger<T>>,
    others: BTreeMap<Place, Stranger<T>>,
    authenticated: usize,
}

#[derive(Debug)]
struct Stranger<T> {
    user: User,
    since: Instant,
    has_sent_head: bool,
    /// Is dropped when it is evicted.
    _hold: T,
}

impl<T> Strangers<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            owners: BTreeMap::new(),
            others: BTreeMap::new(),
            authenticated: 0,
        }
    }

    /// How many strangers there are.
    pub(super) fn count(&self) -> usize {
        self.owners.len() + self.others.len()
    }

    /// Whether there are as many connections as are served.
    pub(super) fn is_full(&self) -> bool {
        self.count() + self.authenticated >= self.limits.all
    }

    /// Decides about a new connection, whose user was asked for if [`is_full`](Self::is_full).
    pub(super) fn admit(&mut self, user: User, now: Instant, hold: T) -> Verdict {
        let is_reserved = self.is_full() && !self.make_room(user, now);
        if is_reserved {
            if matches!(user, User::Other(_)) {
                return Verdict::Closed;
            }
            if self.count() + self.authenticated >= self.limits.all + self.limits.reserve {
                return Verdict::Overloaded;
            }
        }
        let place = self.next;
        self.next += 1;
        let stranger = Stranger { user, since: now, has_sent_head: false, _hold: hold };
        if user == User::Owner {
            self.owners.insert(place, stranger);
        } else {
            self.others.insert(place, stranger);
            if self.others.len() > self.limits.others {
                self.evict_other(now);
            }
        }
        if is_reserved { Verdict::HandshakeOnly(place) } else { Verdict::Served(place) }
    }

    /// Notes that a stranger has sent a whole head.
    pub(super) fn note_head(&mut self, place: Place) {
        if let Some(stranger) = self.owners.get_mut(&place).or_else(|| self.others.get_mut(&place)) {
            stranger.has_sent_head = true;
        }
    }

    /// Notes that a request on the connection has authenticated; it may have been evicted before.
    pub(super) fn note_authenticated(&mut self, place: Place) {
        self.leave(place);
        self.authenticated += 1;
    }

    /// Notes that a stranger's connection has ended.
    pub(super) fn leave(&mut self, place: Place) {
        if self.owners.remove(&place).is_none() {
            self.others.remove(&place);
        }
    }

    /// Notes that a connection has ended on which a request had authenticated.
    pub(super) fn leave_authenticated(&mut self) {
        self.authenticated -= 1;
    }

    /// Evicts one stranger for another connection; returns whether there was one to evict. The daemon's own user loses none
    /// for the sake of another, and none that has just arrived.
    fn make_room(&mut self, user: User, now: Instant) -> bool {
        if self.evict_other(now) {
            return true;
        }
        let first = match user {
            User::Owner => first_to_evict(self.owners.iter(), now),
            User::Other(_) | User::Unknown => None,
        };
        first.is_some_and(|place| {
            let is_young = self.owners.get(&place).is_some_and(|stranger| stranger.is_young(now));
            !is_young && self.owners.remove(&place).is_some()
        })
    }

    /// Evicts one stranger of the user that has most, other than the daemon's own.
    fn evict_other(&mut self, now: Instant) -> bool {
        let mut counts: BTreeMap<User, usize> = BTreeMap::new();
        for stranger in self.others.values() {
            *counts.entry(stranger.user).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(user, _)| user);
        let of_most = self.others.iter().filter(|(_, stranger)| Some(stranger.user) == most);
        first_to_evict(of_most, now).is_some_and(|place| self.others.remove(&place).is_some())
    }
}

impl<T> Stranger<T> {
    /// Whether it may still send a whole head in time.
    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < HEAD_GRACE
    }
}

/// Returns the oldest that had the time to send a whole head and did not; if there is none, the oldest.
fn first_to_evict<'a, T: 'a>(
    mut by_age: impl Iterator<Item = (&'a Place, &'a Stranger<T>)>,
    now: Instant,
) -> Option<Place> {
    let is_idle = |stranger: &Stranger<T>| !stranger.has_sent_head && !stranger.is_young(now);
    let oldest = by_age.next()?;
    let idle = if is_idle(oldest.1) {
        None
    } else {
        by_age.find(|(_, stranger)| is_idle(stranger))
    };
    Some(*idle.unwrap_or(oldest).0)
}

#[cfg(test)]
mod tests {
    use std::rc::{Rc, Weak};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { all: 12, others: 4, reserve: 2 };

    /// Strangers, and whether each is still held.
    struct Census {
        strangers: Strangers<Rc<()>>,
        start: Instant,
        held: Vec<(Option<Place>, User, Weak<()>)>,
    }

    impl Census {
        fn new() -> Self {
            Self {
                strangers: Strangers::new(LIMITS),
                start: Instant::now(),
                held: Vec::new(),
            }
        }

        fn admit(&mut self, user: User, millis: u64) -> Verdict {
            let hold = Rc::new(());
            let weak = Rc::downgrade(&hold);
            let verdict = self.strangers.admit(user, self.start + Duration::from_millis(millis), hold);
            let place = match verdict {
                Verdict::Served(place) | Verdict::HandshakeOnly(place) => Some(place),
                Verdict::Overloaded | Verdict::Closed => None,
            };
            self.held.push((place, user, weak));
            verdict
        }

        /// Those that are there, in the order of arrival.
        fn there(&self) -> Vec<usize> {
            (0..self.held.len()).filter(|&which| self.held[which].2.strong_count() > 0).collect()
        }
    }

    #[test]
    fn the_oldest_of_the_user_that_has_most_goes() {
        let mut census = Census::new();
        for user in [1, 2, 2, 2] {
            census.admit(User::Other(user), 0);
        }
        census.admit(User::Other(1), 1);
        assert_eq!(census.there(), [0, 2, 3, 4]);
        census.admit(User::Unknown, 2);
        assert_eq!(census.there().len(), 4);
    }

    #[test]
    fn a_stranger_that_had_time_for_a_head_and_sent_none_goes_first() {
        let mut census = Census::new();
        for millis in [0, 1, 200, 201] {
            census.admit(User::Other(1), millis);
        }
        census.strangers.note_head(0);
        census.admit(User::Other(1), 202);
        assert_eq!(census.there(), [1, 2, 3, 4], "all are young: the oldest");
        census.strangers.note_head(1);
        census.admit(User::Other(1), 450);
        assert_eq!(census.there(), [1, 3, 4, 5], "the third is not young any more");
    }

    #[test]
    fn the_owner_evicts_only_strangers_of_its_own_that_had_their_time() {
        let mut census = Census::new();
        (0..12).for_each(|millis| {
            census.admit(User::Owner, millis);
        });
        assert_eq!(census.admit(User::Other(1), 249), Verdict::Closed);
        assert!(matches!(census.admit(User::Owner, 249), Verdict::HandshakeOnly(_)));
        assert!(matches!(census.admit(User::Owner, 249), Verdict::HandshakeOnly(_)));
        assert_eq!(census.admit(User::Owner, 249), Verdict::Overloaded);
        assert_eq!(census.admit(User::Other(1), 1000), Verdict::Closed);
        assert!(matches!(census.admit(User::Owner, 250), Verdict::Served(_)));
        assert_eq!(census.there().first(), Some(&1), "the oldest has gone");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Come(User, u64),
        Head(usize),
        Prove(usize),
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let user = prop_oneof![
            Just(User::Owner),
            Just(User::Unknown),
            (0..3_u32).prop_map(User::Other)
        ];
        let which = 0..40_usize;
        prop_oneof![
            4 => (user, 0..400_u64).prop_map(|(user, later)| Step::Come(user, later)),
            1 => which.clone().prop_map(Step::Head),
            1 => which.clone().prop_map(Step::Prove),
            1 => which.prop_map(Step::Leave),
        ]
    }

    proptest! {
        #[test]
        fn the_owner_loses_none_for_others_and_no_limit_is_exceeded(steps in vec(step(), 0..80)) {
            let mut census = Census::new();
            let (mut millis, mut known) = (0, Vec::new());
            for step in steps {
                let before = census.there();
                let place_of = |census: &Census, which: usize| census.held.get(which).and_then(|held| held.0);
                match step {
                    Step::Come(user, later) => {
                        millis += later;
                        let was_full = census.strangers.is_full();
                        let verdict = census.admit(user, millis);
                        let there = census.there();
                        let gone: Vec<usize> = before.into_iter().filter(|which| !there.contains(which)).collect();
                        prop_assert!(gone.len() <= 1);
                        let has_lost_own = gone.iter().any(|&which| census.held[which].1 == User::Owner);
                        prop_assert!(!has_lost_own || user == User::Owner && was_full);
                        prop_assert!(was_full || matches!(verdict, Verdict::Served(_)));
                        prop_assert!(user != User::Owner || verdict != Verdict::Closed);
                    }
                    Step::Head(which) => {
                        if let Some(place) = place_of(&census, which) {
                            census.strangers.note_head(place);
                        }
                    }
                    Step::Prove(which) => {
                        if let Some(place) = place_of(&census, which).filter(|place| !known.contains(place)) {
                            census.strangers.note_authenticated(place);
                            known.push(place);
                        }
                    }
                    Step::Leave(which) => {
                        match place_of(&census, which) {
                            Some(place) if known.contains(&place) => {}
                            Some(place) => census.strangers.leave(place),
                            None => {}
                        }
                    }
                }
                let others = census.there().into_iter().filter(|&which| census.held[which].1 != User::Owner);
                prop_assert!(others.count() <= LIMITS.others);
                prop_assert!(census.there().len() <= LIMITS.all + LIMITS.reserve);
            }
        }
    }
}
