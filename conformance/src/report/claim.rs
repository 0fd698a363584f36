//! What a report is about: roles and profiles.

use std::collections::BTreeSet;
use std::fmt;

use local_daemon_spec::{Profile, Role};
use serde::Serialize;

use super::CaseResult;
use crate::manifest::Manifest;
use crate::runner::Selection;
use crate::verdict::Verdict;

/// What a subject claims, of what was selected. Its text is such as `daemon; core, proof`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// The roles.
    pub roles: BTreeSet<Role>,
    /// The profiles.
    pub profiles: BTreeSet<Profile>,
    /// Whether every case of them was selected.
    pub whole: bool,
}

impl Claim {
    /// Returns what a manifest claims of what is selected.
    pub fn of(manifest: &Manifest, selection: &Selection) -> Self {
        let selected = |profile: &Profile| {
            (selection.profiles.is_empty() || selection.profiles.contains(profile))
                && selection.role.is_none_or(|role| role.binds(role_of(*profile)))
        };
        let profiles = manifest.subject.profiles.iter().copied().filter(selected).collect();
        Self::new(profiles, selection.globs.is_empty())
    }

    /// The same of a run in which single cases were selected: what these are about.
    #[must_use]
    pub fn narrowed(self, results: &[CaseResult]) -> Self {
        if self.whole { self } else { Self { whole: false, ..Self::seen_in(results) } }
    }

    /// Returns what these results are about.
    pub(super) fn seen_in(results: &[CaseResult]) -> Self {
        let applies = results.iter().filter(|result| result.verdict != Verdict::NotApplicable);
        Self::new(applies.map(|result| result.profile).collect(), true)
    }

    fn new(profiles: BTreeSet<Profile>, whole: bool) -> Self {
        Self {
            roles: profiles.iter().copied().map(role_of).collect(),
            profiles,
            whole,
        }
    }
}

fn role_of(profile: Profile) -> Role {
    if profile == Profile::Client { Role::Client } else { Role::Daemon }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<&str> = self.roles.iter().map(|role| role.as_str()).collect();
        // The role says it of a client.
        let profiles = self.profiles.iter().filter(|profile| **profile != Profile::Client);
        let profiles: Vec<&str> = profiles.map(|profile| profile.as_str()).collect();
        match (roles.is_empty(), profiles.is_empty()) {
            (true, _) => f.write_str("nothing"),
            (false, true) => f.write_str(&roles.join(", ")),
            (false, false) => write!(f, "{}; {}", roles.join(", "), profiles.join(", ")),
        }
    }
}
