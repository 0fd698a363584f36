//! What a case comes to, and what a run comes to.

use std::fmt;

use local_daemon_spec::{Catalogue, Level};
use serde::{Deserialize, Serialize};

/// What one case says about the subject. Only [`Verdict::Fail`] accuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// What must be seen was seen.
    Pass,
    /// A requirement is violated, and what had to hold for saying so was seen to hold.
    Fail,
    /// A recommendation (SHOULD) is not followed, or a browser engine deviates from what is known of it.
    Warn,
    /// The subject does not claim the profile, or its manifest says that it does not have the operation.
    NotApplicable,
    /// The subject was never ready, so that nothing could be seen.
    NotRun,
    /// This host or this manifest gives no way to observe it: no second user, no way to change the protocol.
    Untestable,
    /// A precondition was never seen, so nothing follows.
    Inconclusive,
    /// The suite itself failed.
    HarnessError,
}

impl Verdict {
    /// All of them, in the order of the report's summary.
    pub const ALL: [Self; 8] = [
        Self::Pass,
        Self::Fail,
        Self::Warn,
        Self::NotApplicable,
        Self::NotRun,
        Self::Untestable,
        Self::Inconclusive,
        Self::HarnessError,
    ];

    /// The word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Warn => "warn",
            Self::NotApplicable => "not-applicable",
            Self::NotRun => "not-run",
            Self::Untestable => "untestable",
            Self::Inconclusive => "inconclusive",
            Self::HarnessError => "harness-error",
        }
    }

    /// Whether a person has to look at it: everything but a pass, and what did not apply or could not begin.
    pub const fn needs_a_look(self) -> bool {
        !matches!(self, Self::Pass | Self::NotApplicable | Self::NotRun)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a violation of these requirements is: a failure if one of them is a MUST, otherwise a warning.
///
/// An id that the catalogue does not know counts as a MUST: a test fails on it, and a verdict must not soften because
/// of a slip.
pub fn violation(catalogue: &Catalogue, requirements: &[&str]) -> Verdict {
    let binding = |id: &&str| catalogue.get(id).is_none_or(|requirement| requirement.level.is_must());
    if requirements.iter().any(binding) { Verdict::Fail } else { Verdict::Warn }
}

/// The level that reports give to a case: the strongest of its requirements.
pub fn level(catalogue: &Catalogue, requirements: &[&str]) -> Option<Level> {
    requirements
        .iter()
        .filter_map(|id| catalogue.get(id))
        .map(|requirement| requirement.level)
        .min()
}

/// How `daemonspec` ends. The numbers are stable: scripts and CI systems rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Every selected case passed, or did not apply; warnings are allowed unless `--strict`. Also the end of every
    /// other subcommand that did what it was asked.
    Conforms = 0,
    /// At least one case failed; with `--strict` also: at least one warning.
    DoesNotConform = 1,
    /// Nothing failed, but at least one case of a claimed profile was inconclusive or cannot be observed on this host.
    Undecided = 2,
    /// The suite or its input is at fault: a broken manifest, a missing program, bad usage, a report that cannot be
    /// written, an error inside a case.
    Fault = 3,
    /// No case was selected, none of the selected ones applies, or `explain` knows no such name.
    NothingSelected = 4,
    /// The baseline names results that are no longer so.
    StaleBaseline = 5,
    /// Interrupted by a signal: all subjects were ended and the reports, marked incomplete, were written.
    Interrupted = 130,
}

impl ExitCode {
    /// The end of a whole run with these verdicts. An accusation outweighs a fault of the suite in another case, and
    /// both outweigh what stayed open.
    pub fn of(verdicts: &[Verdict], complete: bool, strict: bool) -> Self {
        let any = |wanted| verdicts.contains(&wanted);
        if !complete {
            Self::Interrupted
        } else if any(Verdict::Fail) || (strict && any(Verdict::Warn)) {
            Self::DoesNotConform
        } else if any(Verdict::HarnessError) {
            Self::Fault
        } else if any(Verdict::Inconclusive) || any(Verdict::Untestable) || any(Verdict::NotRun) {
            Self::Undecided
        } else if any(Verdict::Pass) || any(Verdict::Warn) {
            Self::Conforms
        } else {
            Self::NothingSelected
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_finding_decides_the_exit_code() {
        use Verdict::*;
        let of = |verdicts: &[Verdict]| ExitCode::of(verdicts, true, false);
        assert_eq!(of(&[]), ExitCode::NothingSelected);
        assert_eq!(of(&[NotApplicable]), ExitCode::NothingSelected);
        assert_eq!(of(&[Pass, NotApplicable]), ExitCode::Conforms);
        assert_eq!(of(&[Pass, Warn]), ExitCode::Conforms);
        assert_eq!(ExitCode::of(&[Pass, Warn], true, true), ExitCode::DoesNotConform);
        assert_eq!(of(&[Pass, Untestable]), ExitCode::Undecided);
        assert_eq!(of(&[Pass, Inconclusive]), ExitCode::Undecided);
        assert_eq!(of(&[Inconclusive, HarnessError]), ExitCode::Fault);
        assert_eq!(of(&[HarnessError, Fail]), ExitCode::DoesNotConform);
        assert_eq!(ExitCode::of(&[Pass], false, false), ExitCode::Interrupted);
    }

    #[test]
    fn the_word_of_a_verdict_is_the_one_in_json() {
        for verdict in Verdict::ALL {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.as_str());
        }
    }
}
