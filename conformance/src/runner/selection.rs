//! Which of the cases run.

use std::collections::BTreeSet;

use globset::{Glob, GlobMatcher};
use local_daemon_spec::{Profile, Role};

use crate::case::Case;

/// Which cases to run. An empty list selects everything.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns of names; `*` also matches the slash.
    pub globs: Vec<String>,
    /// Profiles.
    pub profiles: BTreeSet<Profile>,
    /// The role.
    pub role: Option<Role>,
}

/// A selection that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionFault {
    /// Not a pattern.
    #[error("`{glob}` is not a pattern: {why}")]
    NotAPattern {
        /// As given.
        glob: String,
        /// What is wrong with it.
        why: String,
    },
    /// A pattern that no case's name matches.
    #[error("no case matches `{0}`")]
    NoSuchCase(String),
}

impl Selection {
    /// The selected ones of `cases`, in their order.
    pub fn of(
        &self,
        cases: impl Iterator<Item = &'static Case>,
    ) -> Result<Vec<&'static Case>, SelectionFault> {
        let cases: Vec<&'static Case> = cases.collect();
        let compile = |glob: &String| match Glob::new(glob) {
            Ok(compiled) => Ok(compiled.compile_matcher()),
            Err(error) => {
                Err(SelectionFault::NotAPattern { glob: glob.clone(), why: error.kind().to_string() })
            }
        };
        let globs: Vec<GlobMatcher> = self.globs.iter().map(compile).collect::<Result<_, _>>()?;
        if let Some(dead) = globs.iter().find(|glob| !cases.iter().any(|case| glob.is_match(case.name))) {
            return Err(SelectionFault::NoSuchCase(dead.glob().glob().to_owned()));
        }
        let selected = |case: &&'static Case| {
            (globs.is_empty() || globs.iter().any(|glob| glob.is_match(case.name)))
                && (self.profiles.is_empty() || self.profiles.contains(&case.profile))
                && self.role.is_none_or(|role| role.binds(case.role))
        };
        Ok(cases.into_iter().filter(selected).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_by_pattern_profile_and_role() {
        let of = |globs: &[&str], profiles: &[Profile], role| {
            let selection = Selection {
                globs: globs.iter().map(|&glob| glob.to_owned()).collect(),
                profiles: profiles.iter().copied().collect(),
                role,
            };
            selection.of(crate::cases::all()).map(|cases| cases.len())
        };
        let all = crate::cases::all().count();
        assert_eq!(of(&[], &[], None), Ok(all));
        assert_eq!(of(&["*"], Profile::ALL, None), Ok(all));
        let by_role = |role| of(&[], &[], Some(role)).unwrap();
        assert_eq!(by_role(Role::Daemon) + by_role(Role::Client), all);
        assert_eq!(of(&["registration/round-*"], &[], None), Ok(1));
        let browser = crate::cases::all().filter(|case| case.profile == Profile::Browser);
        assert_eq!(of(&[], &[Profile::Browser], None), Ok(browser.count()));
        assert_eq!(of(&["nothing/*"], &[], None), Err(SelectionFault::NoSuchCase("nothing/*".to_owned())));
        assert!(matches!(of(&["["], &[], None), Err(SelectionFault::NotAPattern { .. })));
    }
}
