//! The browsers of a run: one an engine, started when the first case asks for it and lent to one case after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use local_daemon_harness::browser::{Browser, BrowserFault, Kind, Look, Quarters};
use serde::Serialize;

use crate::outcome::{Outcome, Stop};

/// Which engines take part, by the words of `--browser`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted(pub BTreeSet<Kind>);

impl Wanted {
    /// Every engine.
    pub fn all() -> Self {
        Self(Kind::ALL.into())
    }
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::all()),
            "none" => Ok(Self::default()),
            list => list.split(',').map(str::parse).collect::<Result<_, _>>().map(Self),
        }
    }
}

/// A browser engine.
#[derive(Debug, Clone, Serialize)]
pub struct EngineFacts {
    /// Such as `firefox`.
    pub name: String,
    /// Its own version.
    pub version: String,
}

/// The browsers of a run. Clones share them. The default has none, and lends none.
#[derive(Debug, Clone, Default)]
pub struct Engines(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    wanted: Wanted,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: BTreeMap<Kind, Browser>,
    /// Of every browser that was started or is being started, so that also one that a case still holds is ended.
    quarters: Vec<Arc<Quarters>>,
    versions: BTreeMap<Kind, String>,
}

impl Engines {
    /// Of these engines, as far as this host has them.
    pub fn of(wanted: Wanted) -> Self {
        Self(Arc::new(Inner { wanted, state: Mutex::default() }))
    }

    /// Lends a browser with one empty tab. Without its programs, or where it was not wanted, nothing can be observed.
    pub(crate) fn lend(&self, kind: Kind) -> Outcome<Lent> {
        if !self.0.wanted.0.contains(&kind) {
            return Err(Stop::Untestable(format!("--browser leaves {kind} out")));
        }
        let lent = |browser| Lent { browser: Some(browser), engines: self.clone() };
        let idle = self.change(|state| state.idle.remove(&kind));
        if let Some(browser) = idle
            && browser.clear().is_ok()
        {
            return Ok(lent(browser));
        }
        let start = || {
            Browser::start_in(kind, Look::default(), |quarters| {
                self.change(|state| state.quarters.push(Arc::clone(quarters)));
            })
        };
        // On a loaded machine a browser may hang as it starts, and the next one does not.
        let started = start().or_else(|fault| match fault {
            BrowserFault::NotStarted { .. } => start(),
            fault => Err(fault),
        });
        match started {
            Ok(browser) => {
                self.change(|state| state.versions.insert(kind, browser.version().to_owned()));
                Ok(lent(browser))
            }
            Err(missing @ BrowserFault::Missing { .. }) => Err(Stop::Untestable(missing.to_string())),
            Err(fault) => Err(Stop::Fault(fault.to_string())),
        }
    }

    /// Ends every browser, also those that are still lent.
    pub fn end(&self) {
        let (idle, quarters) =
            self.change(|state| (std::mem::take(&mut state.idle), std::mem::take(&mut state.quarters)));
        for quarters in &quarters {
            quarters.end();
        }
        drop(idle);
    }

    /// The engines that took part.
    pub fn facts(&self) -> Vec<EngineFacts> {
        let fact = |(kind, version): (&Kind, &String)| EngineFacts {
            name: kind.to_string(),
            version: version.clone(),
        };
        self.change(|state| state.versions.iter().map(fact).collect())
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A browser that a case has; it goes back when the case ends.
#[derive(Debug)]
pub struct Lent {
    browser: Option<Browser>,
    engines: Engines,
}

impl Deref for Lent {
    type Target = Browser;

    fn deref(&self) -> &Browser {
        self.browser.as_ref().expect("it goes back only when this is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(browser) = self.browser.take() {
            self.engines.change(|state| state.idle.insert(browser.kind(), browser));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_chosen_by_their_words() {
        assert_eq!("all".parse(), Ok(Wanted::all()));
        assert_eq!("none".parse(), Ok(Wanted::default()));
        let two = Wanted([Kind::Firefox, Kind::Chromium].into());
        assert_eq!("firefox,chromium".parse(), Ok(two));
        for bad in ["", "opera", "firefox,", "all,firefox"] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_engine_that_was_not_wanted_is_untestable() {
        let lent = Engines::default().lend(Kind::Firefox);
        assert!(matches!(lent, Err(Stop::Untestable(_))), "{lent:?}");
    }
}
