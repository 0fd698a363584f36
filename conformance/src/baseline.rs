//! Failures that are known and expected: a TOML file whose entries name case, requirement and reason.
//!
//! Its JSON Schema is `spec/schemas/baseline.schema.json`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use local_daemon_spec::catalogue;
use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::{Deserialize, Serialize};

use crate::cases;
use crate::nearest::nearest;
use crate::report::CaseResult;
use crate::verdict::Verdict;

/// Why there is no baseline to work with. Always exit status 3.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum BaselineFault {
    /// The file cannot be read.
    #[error("cannot read the baseline {}: {source}", .path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a baseline: syntax, an unknown key, a missing or empty value.
    #[error("{path}: {message}")]
    Invalid {
        /// As given.
        path: String,
        /// What is wrong.
        message: String,
        /// The text.
        #[source_code]
        text: Arc<NamedSource<String>>,
        /// Where in it.
        #[label("here")]
        at: Option<SourceSpan>,
        /// What an entry looks like.
        #[help]
        help: &'static str,
    },
}

/// One failure that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The exact name of the case that fails.
    pub case: String,
    /// The requirement that is violated.
    pub requirement: String,
    /// Why this is so, for the people who read the report.
    pub reason: String,
}

/// The failures that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// In the order of the file.
    #[serde(default)]
    pub expected: Vec<Entry>,
}

impl Baseline {
    /// Reads a baseline.
    pub fn load(path: &Path) -> Result<Self, BaselineFault> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| BaselineFault::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The baseline by which these results are known: what is known already keeps its reason, and the reason of anything else
    /// is what was observed, for a person to replace. A failure is entered once for its first MUST.
    #[must_use]
    pub fn of(&self, results: &[CaseResult]) -> Self {
        let failed = |result: &&CaseResult| matches!(result.verdict, Verdict::Fail | Verdict::Warn);
        let entries = results.iter().filter(failed).flat_map(|result| {
            let known: Vec<Entry> =
                self.expected.iter().filter(|entry| entry.case == result.case).cloned().collect();
            if result.known.is_some() {
                known
            } else {
                Entry::of(result).into_iter().collect()
            }
        });
        Self { expected: entries.collect() }
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let head = "# Failures that are known: `daemonspec run --baseline` of this file excuses them. Say in each reason why.\n";
        let entries = self.expected.iter().map(|entry| {
            let entry = toml::to_string(entry).expect("an entry has strings only");
            format!("\n[[expected]]\n{entry}")
        });
        std::iter::once(head.to_owned()).chain(entries).collect()
    }

    fn parse(text: &str, path: &str) -> Result<Self, BaselineFault> {
        let invalid = |message: &str, at: Option<std::ops::Range<usize>>| BaselineFault::Invalid {
            path: path.to_owned(),
            message: message.trim_end().to_owned(),
            text: Arc::new(NamedSource::new(path, text.to_owned())),
            at: at.map(|at| (at.start.min(text.len().saturating_sub(1))..at.end.min(text.len())).into()),
            help: "an entry is [[expected]] with the keys case, requirement and reason",
        };
        let baseline: Self = toml::from_str(text).map_err(|error| invalid(error.message(), error.span()))?;
        let unreasoned = baseline.expected.iter().find(|entry| entry.reason.trim().is_empty());
        match unreasoned {
            Some(entry) => Err(invalid(&format!("the entry of {} has no reason", entry.case), None)),
            None => Ok(baseline),
        }
    }

    /// Marks the failures, and with them the warnings, that are known, and names the entries that are stale: their case
    /// does not fail any more, does not apply, is not there, or does not cover the requirement. An entry whose case has
    /// no result, or one that leaves it open, is let be.
    pub fn apply(&self, results: &mut [CaseResult]) -> Vec<String> {
        self.expected
            .iter()
            .filter_map(|entry| {
                let why = entry.settle(results)?;
                Some(format!("{} ({}): {why}", entry.case, entry.requirement))
            })
            .collect()
    }
}

impl Entry {
    /// The entry of a failure; `None` of one that is no case's, such as the first launch.
    fn of(result: &CaseResult) -> Option<Self> {
        const LONGEST: usize = 200;
        cases::get(result.case)?;
        let must = |id: &&&str| catalogue().get(id).is_some_and(|requirement| requirement.level.is_must());
        let id = result.requirements.iter().find(must).or(result.requirements.first())?;
        let observed = result.observed.as_deref().unwrap_or("nothing");
        let observed: String = observed.chars().take(LONGEST).collect();
        Some(Self {
            case: result.case.to_owned(),
            requirement: (*id).to_owned(),
            reason: format!("to be said; observed: {observed}"),
        })
    }

    fn settle(&self, results: &mut [CaseResult]) -> Option<String> {
        let Some(case) = cases::get(&self.case) else {
            let near = nearest(&self.case, cases::all().map(|case| case.name), 1);
            let meant = near.first().map(|near| format!("; did you mean {near}?"));
            return Some(format!("no such case{}", meant.unwrap_or_default()));
        };
        if !case.requirements.contains(&self.requirement.as_str()) {
            return Some(format!("the case covers {}", case.requirements.join(", ")));
        }
        let result = results.iter_mut().find(|result| result.case == self.case)?;
        match result.verdict {
            Verdict::Fail | Verdict::Warn => {
                let reason = format!("{}: {}", self.requirement, self.reason.trim());
                result.known = Some(match result.known.take() {
                    Some(others) => format!("{others}; {reason}"),
                    None => reason,
                });
                None
            }
            Verdict::Pass => Some("the case passes".to_owned()),
            Verdict::NotApplicable => Some("the case does not apply".to_owned()),
            Verdict::NotRun | Verdict::Untestable | Verdict::Inconclusive | Verdict::HarnessError => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Baseline, BaselineFault> {
        Baseline::parse(text, "baseline.toml")
    }

    fn result(case: &str, verdict: Verdict) -> CaseResult {
        CaseResult::new(cases::get(case).unwrap(), verdict)
    }

    const TEXT: &str =
        "[[expected]]\ncase = 'registration/round-trip-discovery'\nrequirement = 'REG-5'\nreason = 'IPv6'";

    #[test]
    fn an_entry_says_which_case_and_why_and_nothing_else() {
        assert_eq!(parse(TEXT).unwrap().expected[0].reason, "IPv6");
        assert_eq!(parse("").unwrap(), Baseline::default());
        for (text, wrong) in [
            (TEXT.replace("'IPv6'", "' '"), "has no reason"),
            (TEXT.replace("reason", "because"), "because"),
            (TEXT.replace("[[expected]]", "[[expect]]"), "expect"),
            ("[[expected]]\ncase = 'a/b'".to_owned(), "requirement"),
            ("[[expected".to_owned(), ""),
        ] {
            let fault = parse(&text).unwrap_err().to_string();
            assert!(fault.contains(wrong), "{text}: {fault}");
        }
    }

    #[test]
    fn what_is_written_excuses_what_failed_and_keeps_the_reasons_that_were_given() {
        let name = "registration/round-trip-discovery";
        let failed = |known: Option<&str>| CaseResult {
            known: known.map(str::to_owned),
            ..result(name, Verdict::Fail).observed("a \"quoted\\ text\nof two lines")
        };
        let written = Baseline::default().of(&[failed(None), result(name, Verdict::Pass)]);
        let read = parse(&written.text()).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.expected.len(), 1);
        assert!(read.expected[0].reason.contains("of two lines"));
        let mut again = [failed(None)];
        assert!(read.apply(&mut again).is_empty() && again[0].known.is_some());
        let kept = parse(TEXT).unwrap().of(&[failed(Some("REG-5: IPv6"))]);
        assert_eq!(kept.expected[0].reason, "IPv6");
    }

    #[test]
    fn the_schema_accepts_what_is_read_and_refuses_what_is_not() {
        let schema = local_daemon_spec::schemas::get("baseline").unwrap();
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        let valid =
            |text: &str| jsonschema::is_valid(&schema, &toml::from_str::<serde_json::Value>(text).unwrap());
        assert!(valid(TEXT) && valid(""));
        assert!(!valid(&TEXT.replace("reason", "because")));
        assert!(!valid(&TEXT.replace("'IPv6'", "''")));
    }

    #[test]
    fn a_known_failure_is_marked_and_an_entry_that_is_no_longer_so_is_stale() {
        let name = "registration/round-trip-discovery";
        let stale = |verdict| {
            let mut results = [result(name, verdict)];
            let stale = parse(TEXT).unwrap().apply(&mut results);
            (stale.len(), results[0].known.is_some())
        };
        assert_eq!(stale(Verdict::Fail), (0, true));
        assert_eq!(stale(Verdict::Warn), (0, true));
        assert_eq!(stale(Verdict::Pass), (1, false));
        assert_eq!(stale(Verdict::NotApplicable), (1, false));
        assert_eq!(stale(Verdict::Untestable), (0, false));
        assert!(parse(TEXT).unwrap().apply(&mut []).is_empty(), "the case was not selected");
        let gone = parse(&TEXT.replace("discovery", "discovry")).unwrap().apply(&mut []);
        assert!(gone[0].contains("no such case") && gone[0].contains(name), "{gone:?}");
        let other = parse(&TEXT.replace("REG-5", "HS-1")).unwrap().apply(&mut [result(name, Verdict::Fail)]);
        assert!(other[0].contains("REG-5"), "{other:?}");
    }
}
