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

/// What a selection comes to.
#[derive(Debug, Clone, Default)]
pub struct Selected {
    /// The cases, in their order.
    pub cases: Vec<&'static Case>,
    /// The patterns that no case matches, if another one matches some.
    pub unmatched: Vec<String>,
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
    /// A pattern that no case's name matches, and there is no other that one matches.
    #[error("no case matches `{0}`")]
    NoSuchCase(String),
}

impl Selection {
    /// The selected ones of `cases`, in their order.
    pub fn of(&self, cases: impl Iterator<Item = &'static Case>) -> Result<Selected, SelectionFault> {
        let cases: Vec<&'static Case> = cases.collect();
        let compile = |glob: &String| match Glob::new(glob) {
            Ok(compiled) => Ok(compiled.compile_matcher()),
            Err(error) => {
                Err(SelectionFault::NotAPattern { glob: glob.clone(), why: error.kind().to_string() })
            }
        };
        let globs: Vec<GlobMatcher> = self.globs.iter().map(compile).collect::<Result<_, _>>()?;
        let matches_none = |glob: &&GlobMatcher| !cases.iter().any(|case| glob.is_match(case.name));
        let unmatched = globs.iter().filter(matches_none).map(|glob| glob.glob().glob().to_owned());
        let unmatched: Vec<String> = unmatched.collect();
        if let Some(first) = unmatched.first().filter(|_| unmatched.len() == globs.len()) {
            return Err(SelectionFault::NoSuchCase(first.clone()));
        }
        let selected = |case: &&'static Case| {
            (globs.is_empty() || globs.iter().any(|glob| glob.is_match(case.name)))
                && (self.profiles.is_empty() || self.profiles.contains(&case.profile))
                && self.role.is_none_or(|role| role.binds(case.role))
        };
        Ok(Selected { cases: cases.into_iter().filter(selected).collect(), unmatched })
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
            selection
                .of(crate::cases::all())
                .map(|selected| (selected.cases.len(), selected.unmatched.len()))
        };
        let all = crate::cases::all().count();
        assert_eq!(of(&[], &[], None), Ok((all, 0)));
        assert_eq!(of(&["*"], Profile::ALL, None), Ok((all, 0)));
        let by_role = |role| of(&[], &[], Some(role)).unwrap().0;
        assert_eq!(by_role(Role::Daemon) + by_role(Role::Client), all);
        assert_eq!(of(&["registration/round-*"], &[], None), Ok((1, 0)));
        assert_eq!(of(&["registration/round-*", "nothing/*"], &[], None), Ok((1, 1)));
        let browser = crate::cases::all().filter(|case| case.profile == Profile::Browser);
        assert_eq!(of(&[], &[Profile::Browser], None), Ok((browser.count(), 0)));
        assert_eq!(of(&["nothing/*"], &[], None), Err(SelectionFault::NoSuchCase("nothing/*".to_owned())));
        assert!(matches!(of(&["["], &[], None), Err(SelectionFault::NotAPattern { .. })));
    }
}
