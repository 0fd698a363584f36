//! Cases and how they are declared. `cases/client/gate.rs` is a short example: what is arranged, what is done, what must be
//! seen.

use std::time::Duration;

pub use local_daemon_conformance_macros::case;
use local_daemon_harness::arena::Shape;
use local_daemon_harness::browser::Kind;
use local_daemon_spec::{Profile, Role, catalogue};

use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::stage::Stage;

/// One case. [`Case::new`] makes one; the other methods change what is unusual about it. The attribute [`case`] calls them.
///
/// The name is `chapter/what-must-be-seen`; the chapter is that of the first requirement. Two kinds go across chapters:
/// those named `schedule/ablation` replay a counterexample of the formal model, and those named
/// `browser/what-must-be-seen/engine` see from a page of a real browser what another chapter requires.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `chapter/what-must-be-seen`.
    pub name: &'static str,
    /// The ids that a failure of this case says are violated.
    pub requirements: &'static [&'static str],
    /// The profile that must be claimed for it to apply; [`is_asked_of`](Self::is_asked_of) says when else it does.
    pub profile: Profile,
    /// Who is judged.
    pub role: Role,
    /// What is arranged, done and looked for, in a sentence or two.
    pub about: &'static str,
    /// The case itself.
    pub run: fn(&mut Stage) -> Outcome,
    /// Runs alone, because it measures time or loads the machine.
    pub exclusive: bool,
    /// Waits most of the time, and so takes no place among those that run at the same time.
    pub idle: bool,
    /// A process that the subject leaves behind fails it, beyond being noted.
    pub no_leaks: bool,
    /// What is still running at this time is ended and is the suite's own fault.
    pub deadline: Duration,
    /// The kind of path of the state directory.
    pub shape: Shape,
    /// The browser engine that it drives. Those of one engine run one after the other.
    pub engine: Option<Kind>,
}

impl Case {
    /// A case of the daemon role in profile `core`.
    pub const fn new(
        name: &'static str,
        requirements: &'static [&'static str],
        about: &'static str,
        run: fn(&mut Stage) -> Outcome,
    ) -> Self {
        Self {
            name,
            requirements,
            profile: Profile::Core,
            role: Role::Daemon,
            about,
            run,
            exclusive: false,
            idle: false,
            no_leaks: false,
            deadline: Duration::from_mins(1),
            shape: Shape::Short,
            engine: None,
        }
    }

    /// Judges the client, in profile `client`.
    #[must_use]
    pub const fn client(self) -> Self {
        Self { profile: Profile::Client, role: Role::Client, ..self }
    }

    /// Applies only to a subject that claims this profile.
    #[must_use]
    pub const fn profile(self, profile: Profile) -> Self {
        Self { profile, ..self }
    }

    /// Drives this browser engine.
    #[must_use]
    pub const fn engine(self, engine: Kind) -> Self {
        // The first case of an engine waits for its start.
        Self { engine: Some(engine), deadline: Duration::from_mins(3), ..self }
    }

    /// Runs while no other case does.
    #[must_use]
    pub const fn exclusive(self) -> Self {
        Self { exclusive: true, ..self }
    }

    /// Begins first and runs concurrently with all others, because it does little but wait for long bounds.
    #[must_use]
    pub const fn idle(self) -> Self {
        Self { idle: true, ..self }
    }

    /// Fails where the subject leaves a process behind.
    #[must_use]
    pub const fn no_leaks(self) -> Self {
        Self { no_leaks: true, ..self }
    }

    /// May take so many seconds.
    #[must_use]
    pub const fn deadline_s(self, seconds: u64) -> Self {
        Self { deadline: Duration::from_secs(seconds), ..self }
    }

    /// Has its state directory at a path of this kind.
    #[must_use]
    pub const fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// Whether a subject of this manifest is asked it: one that claims its profile. What engines see of other profiles is
    /// also asked of one that claims these, where its manifest says so.
    pub fn is_asked_of(&self, manifest: &Manifest) -> bool {
        let claims = |id: &&str| {
            let requirement = catalogue().get(id);
            requirement.is_some_and(|requirement| manifest.claims(requirement.profile))
        };
        let seen = self.engine.is_some() && manifest.subject.engines;
        manifest.claims(self.profile) || seen && self.requirements.iter().all(claims)
    }

    /// The part of the name before the slash.
    pub fn chapter(&self) -> &'static str {
        self.name.split_once('/').map_or(self.name, |(chapter, _)| chapter)
    }
}

/// A case as its function declares it. [`cases::all`](crate::cases::all) derives the rest from the module.
#[derive(Debug)]
pub(crate) struct Declaration {
    /// The path of the module.
    pub(crate) module: &'static str,
    /// The line of the declaration.
    pub(crate) line: u32,
    /// The case. Its name is what must be seen, without the chapter.
    pub(crate) case: Case,
}

inventory::collect!(Declaration);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_see_of_claimed_profiles_is_asked_where_the_manifest_says_so() {
        const PLAIN: Case = Case::new("browser/z", &["PER-26"], "", |_| Ok(())).profile(Profile::Browser);
        const BY_STREAM: Case = Case { requirements: &["STR-15", "PER-26"], ..PLAIN.engine(Kind::Firefox) };
        const BY_PAGE: Case = Case { requirements: &["PER-26", "BROW-1"], ..PLAIN.engine(Kind::Firefox) };
        let asked = |profiles: &[Profile], engines: bool| {
            let mut manifest =
                Manifest::of_command(vec!["true".to_owned()], profiles.iter().copied().collect()).unwrap();
            manifest.subject.engines = engines;
            [BY_STREAM, BY_PAGE, PLAIN].map(|case| case.is_asked_of(&manifest))
        };
        assert_eq!(asked(&[Profile::Perimeter, Profile::Streams], false), [false; 3]);
        assert_eq!(asked(&[Profile::Perimeter, Profile::Streams], true), [true, false, false]);
        assert_eq!(asked(&[Profile::Perimeter], true), [false; 3]);
        assert_eq!(asked(&[Profile::Browser], false), [true; 3]);
    }
}
