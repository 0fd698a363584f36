//! Repeats one result of a run from a file: the case, the seed, the manifest.
//!
//! The file's JSON Schema is `spec/schemas/replay.schema.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;
use crate::report::{CaseResult, SubjectFacts};
use crate::verdict::Verdict;

/// Name and version of the file.
pub const SCHEMA: &str = "local-daemon-conformance-replay/1";

/// What repeats one result.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    schema: String,
    /// Version of the suite that saw it.
    pub suite_version: String,
    /// What was judged.
    pub subject: SubjectFacts,
    /// The seed of every random choice.
    pub seed: u64,
    /// The case.
    pub case: String,
    /// What it came to.
    pub verdict: Verdict,
    /// What was seen.
    pub observed: Option<String>,
    /// The subject's manifest, its programs found.
    pub manifest: Manifest,
}

/// Why a replay file cannot be read or written. Always exit status 3.
#[derive(Debug, thiserror::Error)]
pub enum ReplayFault {
    /// It cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Unwritable {
        /// Where to.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no replay file of this version.
    #[error("{} is no replay file: {message}", .path.display())]
    Invalid {
        /// As given.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl Replay {
    /// What repeats `result`; nothing for a result that says nothing against the subject or the suite.
    pub fn of(result: &CaseResult, seed: u64, subject: &SubjectFacts, manifest: &Manifest) -> Option<Self> {
        use Verdict::{Fail, HarnessError, Inconclusive, Warn};
        matches!(result.verdict, Fail | Warn | Inconclusive | HarnessError).then(|| Self {
            schema: SCHEMA.to_owned(),
            suite_version: env!("CARGO_PKG_VERSION").to_owned(),
            subject: subject.clone(),
            seed,
            case: result.case.to_owned(),
            verdict: result.verdict,
            observed: result.observed.clone(),
            manifest: manifest.clone(),
        })
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ReplayFault> {
        let bytes = std::fs::read(path)
            .map_err(|source| ReplayFault::Unreadable { path: path.to_owned(), source })?;
        let invalid = |message: String| ReplayFault::Invalid { path: path.to_owned(), message };
        let replay: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if replay.schema != SCHEMA {
            return Err(invalid(format!("its schema is {:?}, not {SCHEMA}", replay.schema)));
        }
        Ok(replay)
    }

    /// Writes it into `folder`, under the name of its case, over what an earlier run left there; gives back the path.
    pub fn save(&self, folder: &Path) -> Result<PathBuf, ReplayFault> {
        let path = folder.join(format!("{}.json", self.case.replace('/', ".")));
        let json = serde_json::to_string_pretty(self).expect("a replay has string keys only");
        match std::fs::write(&path, json + "\n") {
            Ok(()) => Ok(path),
            Err(source) => Err(ReplayFault::Unwritable { path, source }),
        }
    }

    /// What is no longer as it was when the result was seen: its absence would explain another verdict.
    pub fn differences(&self, now: &SubjectFacts) -> Vec<String> {
        let short = |hash: &Option<String>| {
            hash.as_deref().map_or("unreadable", |hash| &hash[..12.min(hash.len())]).to_owned()
        };
        let mut differences = Vec::new();
        if self.subject.sha256 != now.sha256 {
            differences.push(format!(
                "the subject's executable is another one: SHA-256 {} now, {} then",
                short(&now.sha256),
                short(&self.subject.sha256)
            ));
        }
        if self.suite_version != env!("CARGO_PKG_VERSION") {
            differences.push(format!(
                "the suite is {} now, and was {} then",
                env!("CARGO_PKG_VERSION"),
                self.suite_version
            ));
        }
        differences
    }
}
