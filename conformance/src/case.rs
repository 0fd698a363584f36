//! How a case is written: what is arranged, what is done, what must be seen, what was seen.
//!
//! ```no_run
//! use local_daemon_conformance::case::Case;
//! use local_daemon_conformance::outcome::Outcome;
//! use local_daemon_conformance::stage::Stage;
//!
//! const CASES: &[Case] = &[Case::core(
//!     "handshake/missing-authorization",
//!     &["HS-6"],
//!     "A handshake without an `Authorization` header is sent between two good ones.",
//!     missing_authorization,
//! )];
//!
//! fn missing_authorization(stage: &mut Stage) -> Outcome {
//!     // Arranged: a daemon that was seen ready, which is the precondition.
//!     let (_daemon, live) = stage.launch_ready()?;
//!     // Must be seen.
//!     stage.expect("401 with a WWW-Authenticate header");
//!     // Done, between two good handshakes: the positive control.
//!     stage.between_controls(&live, |stage| {
//!         let request = stage.handshake_request(&live);
//!         match stage.send(&live, &request) {
//!             Ok(answer) => {
//!                 // Was seen.
//!                 let challenged = answer.header("WWW-Authenticate").is_some();
//!                 let seen = answer.summary(stage.transcript());
//!                 stage.ensure(answer.status == 401 && challenged, seen)
//!             }
//!             Err(fault) => stage.fail(format!("no answer: {fault}")),
//!         }
//!     })
//! }
//! ```

use std::time::Duration;

use local_daemon_harness::arena::Shape;
use local_daemon_harness::browser::Kind;
use local_daemon_spec::{Profile, Role, catalogue};

use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::stage::Stage;

/// One case. `Case::core(…)` and `Case::proof(…)` make one; the other methods change what is unusual about it.
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
    pub const fn core(
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

    /// A case of the daemon role in profile `proof`.
    pub const fn proof(
        name: &'static str,
        requirements: &'static [&'static str],
        about: &'static str,
        run: fn(&mut Stage) -> Outcome,
    ) -> Self {
        Self::core(name, requirements, about, run).of(Profile::Proof, Role::Daemon)
    }

    /// A case of the daemon role in profile `perimeter`.
    pub const fn perimeter(
        name: &'static str,
        requirements: &'static [&'static str],
        about: &'static str,
        run: fn(&mut Stage) -> Outcome,
    ) -> Self {
        Self::core(name, requirements, about, run).of(Profile::Perimeter, Role::Daemon)
    }

    /// A case of the daemon role in profile `streams`.
    pub const fn streams(
        name: &'static str,
        requirements: &'static [&'static str],
        about: &'static str,
        run: fn(&mut Stage) -> Outcome,
    ) -> Self {
        Self::core(name, requirements, about, run).of(Profile::Streams, Role::Daemon)
    }

    /// A case of the client role, in profile `client`.
    pub const fn client(
        name: &'static str,
        requirements: &'static [&'static str],
        about: &'static str,
        run: fn(&mut Stage) -> Outcome,
    ) -> Self {
        Self::core(name, requirements, about, run).of(Profile::Client, Role::Client)
    }

    /// A case of the daemon role in profile `browser`, seen without a browser: over HTTP, in files and processes.
    pub const fn browser_paths(
        name: &'static str,
        requirements: &'static [&'static str],
        about: &'static str,
        run: fn(&mut Stage) -> Outcome,
    ) -> Self {
        Self::core(name, requirements, about, run).of(Profile::Browser, Role::Daemon)
    }

    /// A case of the daemon role in profile `browser`, seen from pages in `engine`.
    pub const fn browser(
        name: &'static str,
        requirements: &'static [&'static str],
        about: &'static str,
        run: fn(&mut Stage) -> Outcome,
        engine: Kind,
    ) -> Self {
        Self {
            engine: Some(engine),
            // The first case of an engine waits for its start.
            deadline: Duration::from_mins(3),
            ..Self::core(name, requirements, about, run).of(Profile::Browser, Role::Daemon)
        }
    }

    const fn of(self, profile: Profile, role: Role) -> Self {
        Self { profile, role, ..self }
    }

    /// Runs with no other case beside it.
    #[must_use]
    pub const fn exclusive(self) -> Self {
        Self { exclusive: true, ..self }
    }

    /// Begins first and runs beside all others, because it does little but wait for long bounds.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_see_of_claimed_profiles_is_asked_where_the_manifest_says_so() {
        const BY_STREAM: Case =
            Case::browser("browser/x/firefox", &["STR-15", "PER-26"], "", |_| Ok(()), Kind::Firefox);
        const BY_PAGE: Case =
            Case::browser("browser/y/firefox", &["PER-26", "BROW-1"], "", |_| Ok(()), Kind::Firefox);
        const PLAIN: Case = Case::browser_paths("browser/z", &["PER-26"], "", |_| Ok(()));
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
