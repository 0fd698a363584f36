//! Page tokens: what a page has in the credential's place. One launch knows them, and keeps them nowhere but in memory
//! (BROW-8, BROW-9). No I/O but the system's random source, no clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::watch;

use super::secret::{Secret, fresh_id};

/// How many page tokens live at once; one more, and the one that was not used for the longest time is revoked.
const MAX_TOKENS: usize = 256;

/// The page tokens of one launch.
#[derive(Debug, Default)]
pub struct PageTokens(Mutex<Vec<Held>>);

#[derive(Debug)]
struct Held {
    token: PageToken,
    /// What it is known by again: the token itself is held by its page alone.
    digest: [u8; 32],
    /// Goes with the token; whoever waits for that learns it so.
    life: watch::Sender<()>,
}

/// What may be known of a live page token (BROW-12).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageToken {
    /// By what it is revoked. It has nothing to do with the token's text.
    pub id: Arc<str>,
    /// The only origin that it works from.
    pub origin: Arc<str>,
    /// When it was issued.
    pub issued_at: SystemTime,
    /// When it last opened something, or was issued.
    pub last_used: SystemTime,
}

/// A page token that was accepted, and how its end is learnt.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) id: Arc<str>,
    life: watch::Receiver<()>,
}

impl Accepted {
    /// Whether the token is revoked (BROW-13).
    pub(crate) fn is_revoked(&self) -> bool {
        self.life.has_changed().is_err()
    }

    /// Ends when the token is revoked (BROW-13).
    pub(crate) async fn revoked(mut self) {
        while self.life.changed().await.is_ok() {}
    }
}

impl PageTokens {
    /// Returns a list without tokens.
    pub fn new() -> Self {
        Self::default()
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        // Tokens are pushed and taken whole, and a time of use is one store.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a token for the pages of a serialised origin.
    ///
    /// # Panics
    ///
    /// When the system has no random source.
    pub fn issue(&self, origin: &str, now: SystemTime) -> Secret {
        let secret = Secret::fresh();
        let token = PageToken { id: fresh_id(), origin: origin.into(), issued_at: now, last_used: now };
        let mut held = self.held();
        if held.len() >= MAX_TOKENS
            && let Some((oldest, _)) = held.iter().enumerate().min_by_key(|(_, held)| held.token.last_used)
        {
            held.remove(oldest);
        }
        held.push(Held {
            token,
            digest: Sha256::digest(secret.expose()).into(),
            life: watch::channel(()).0,
        });
        secret
    }

    /// Accepts a token that a request of `origin` presents (BROW-10).
    pub(crate) fn accept(&self, text: &[u8], origin: &str, now: SystemTime) -> Option<Accepted> {
        let digest: [u8; 32] = Sha256::digest(text).into();
        let mut held = self.held();
        // PER-22: every token is compared, each in constant time.
        let mut found = None;
        for held in held.iter_mut() {
            let is_it: Choice = held.digest.ct_eq(&digest);
            if bool::from(is_it) {
                found = Some(held);
            }
        }
        let found = found.filter(|held| *held.token.origin == *origin)?;
        found.token.last_used = now;
        Some(Accepted { id: found.token.id.clone(), life: found.life.subscribe() })
    }

    /// Returns the live tokens, in the order of their issue.
    pub fn list(&self) -> Vec<PageToken> {
        self.held().iter().map(|held| held.token.clone()).collect()
    }

    /// Revokes a token: it is refused from now on, and the answers that it opened end (BROW-13). Returns `false` if there is no
    /// such token.
    pub fn revoke(&self, id: &str) -> bool {
        self.revoke_where(|token| *token.id == *id)
    }

    /// Revokes the tokens that are meant, such as those of an origin that was taken off the list (BROW-14); `false`:
    /// there is none.
    pub fn revoke_where(&self, is_meant: impl Fn(&PageToken) -> bool) -> bool {
        let mut held = self.held();
        let before = held.len();
        held.retain(|held| !is_meant(&held.token));
        held.len() < before
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    const ORIGIN: &str = "http://127.0.0.1:4517";

    #[test]
    fn a_token_works_from_its_origin_alone() {
        let tokens = PageTokens::new();
        let token = tokens.issue(ORIGIN, UNIX_EPOCH);
        let accepts = |text: &str, origin: &str| tokens.accept(text.as_bytes(), origin, UNIX_EPOCH).is_some();
        assert!(accepts(token.expose(), ORIGIN));
        for other in [
            "http://localhost:4517",
            "http://127.0.0.1:45170",
            "http://127.0.0.1",
            "null",
            "",
        ] {
            assert!(!accepts(token.expose(), other), "{other}");
        }
        for guess in ["", &token.expose()[..42], &format!("{}A", token.expose())] {
            assert!(!accepts(guess, ORIGIN), "{guess}");
        }
        assert!(accepts(token.expose(), ORIGIN));
        assert_ne!(tokens.issue(ORIGIN, UNIX_EPOCH).expose(), token.expose());
    }

    #[test]
    fn the_list_tells_times_and_no_part_of_a_token() {
        let tokens = PageTokens::new();
        let token = tokens.issue(ORIGIN, UNIX_EPOCH);
        let later = UNIX_EPOCH + Duration::from_secs(7);
        tokens.accept(token.expose().as_bytes(), ORIGIN, later).unwrap();
        // A look from elsewhere is no use.
        assert!(tokens.accept(token.expose().as_bytes(), "null", later + Duration::from_secs(1)).is_none());
        let list = tokens.list();
        let [listed] = list.as_slice() else { panic!("{list:?}") };
        assert_eq!((listed.issued_at, listed.last_used), (UNIX_EPOCH, later));
        assert_eq!((&*listed.origin, listed.id.len()), (ORIGIN, 16));
        let shown = format!("{tokens:?} {list:?} {token:?}");
        for part in token.expose().as_bytes().windows(6) {
            assert!(!shown.contains(str::from_utf8(part).unwrap()), "{shown}");
        }
    }

    #[tokio::test]
    async fn what_it_opened_learns_of_its_end() {
        let tokens = PageTokens::new();
        let [one, other] = [(); 2].map(|()| tokens.issue(ORIGIN, UNIX_EPOCH));
        let accept = |token: &Secret| tokens.accept(token.expose().as_bytes(), ORIGIN, UNIX_EPOCH);
        let (opened, still) = (accept(&one).unwrap(), accept(&other).unwrap());
        assert!(tokens.revoke(&opened.id) && !tokens.revoke(&opened.id));
        opened.revoked().await;
        assert!(accept(&one).is_none() && accept(&other).is_some());
        tokio::select! {
            biased;
            () = still.revoked() => panic!("another token was revoked"),
            () = std::future::ready(()) => {}
        }
    }

    #[test]
    fn tokens_are_bounded_and_the_least_used_goes() {
        let tokens = PageTokens::new();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let all: Vec<Secret> = (0..MAX_TOKENS as u64).map(|n| tokens.issue(ORIGIN, at(n))).collect();
        let accepts =
            |token: &Secret, now| tokens.accept(token.expose().as_bytes(), ORIGIN, at(now)).is_some();
        assert!(accepts(&all[0], 1000));
        tokens.issue(ORIGIN, at(1001));
        assert!(accepts(&all[0], 1002) && !accepts(&all[1], 1002));
        assert_eq!(tokens.list().len(), MAX_TOKENS);
    }

    proptest! {
        /// Whatever is issued and revoked in whatever order: exactly the live tokens are accepted, each from its origin.
        #[test]
        fn the_live_ones_are_accepted(steps in prop::collection::vec((0..3_usize, any::<prop::sample::Index>(), any::<bool>()), 1..60)) {
            let origins = ["https://a.example", "https://b.example", ORIGIN];
            let tokens = PageTokens::new();
            let mut live: Vec<(Secret, usize, Arc<str>)> = Vec::new();
            let mut dead: Vec<(Secret, usize)> = Vec::new();
            for (origin, index, is_issue) in steps {
                if is_issue || live.is_empty() {
                    let secret = tokens.issue(origins[origin], UNIX_EPOCH);
                    let id = tokens.list().last().unwrap().id.clone();
                    live.push((secret, origin, id));
                } else if origin == 0 {
                    let gone = index.index(live.len());
                    let (secret, origin, id) = live.remove(gone);
                    prop_assert!(tokens.revoke(&id));
                    dead.push((secret, origin));
                } else {
                    tokens.revoke_where(|token| *token.origin == *origins[origin]);
                    let (gone, kept): (Vec<_>, Vec<_>) = live.into_iter().partition(|(_, of, _)| *of == origin);
                    dead.extend(gone.into_iter().map(|(secret, of, _)| (secret, of)));
                    live = kept;
                }
                for (at, name) in origins.iter().enumerate() {
                    let accepts = |secret: &Secret| tokens.accept(secret.expose().as_bytes(), name, UNIX_EPOCH).is_some();
                    for (secret, of, _) in &live {
                        prop_assert_eq!(accepts(secret), *of == at);
                    }
                    prop_assert!(!dead.iter().any(|(secret, _)| accepts(secret)));
                }
            }
        }
    }
}
