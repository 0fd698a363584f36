//! What a run came to, and the forms in which it is told.

mod badge;
mod claim;
mod groups;
mod html;
mod junit;
pub(crate) mod markdown;
mod output;
pub mod terminal;

pub use claim::Claim;
pub use groups::{Group, groups};
pub use output::{Format, Output, Target};

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use local_daemon_harness::process::Launch;
use local_daemon_harness::proof::sha256_hex;
use local_daemon_harness::transcript::Event;
use local_daemon_spec::{Profile, Role};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::engines::EngineFacts;
use crate::manifest::Manifest;
use crate::verdict::{ExitCode, Verdict};

/// Name and version of the JSON form, whose schema is `spec/schemas/report.schema.json`.
pub const SCHEMA: &str = "local-daemon-conformance-report/1";

/// The contract that is judged.
pub const SPEC: &str = "local-daemon/1";

/// A whole report. Serialised, it is the JSON form.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The suite's own version.
    pub suite_version: &'static str,
    /// [`SPEC`].
    pub spec: &'static str,
    /// What was judged.
    pub subject: SubjectFacts,
    /// What it claims of what was selected.
    pub claim: Claim,
    /// The seed of every random choice.
    pub seed: u64,
    /// When the run began, RFC 3339 in UTC.
    pub started: String,
    /// Whether every selected case has a result.
    pub complete: bool,
    /// Where the suite ran.
    pub host: HostFacts,
    /// In the order of the specification.
    pub results: Vec<CaseResult>,
    /// How many results bear each verdict, known failures among them.
    pub summary: Summary,
    /// Entries of the baseline that are no longer so, with why.
    pub stale_baseline: Vec<String>,
}

/// What is known of the subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectFacts {
    /// The manifest's name for it.
    pub name: String,
    /// What its version command printed.
    pub version: Option<String>,
    /// SHA-256 of its executable.
    pub sha256: Option<String>,
}

/// Where the suite ran.
#[derive(Debug, Clone, Serialize)]
pub struct HostFacts {
    /// Such as `linux`.
    pub os: &'static str,
    /// Browser engines that took part.
    pub engines: Vec<EngineFacts>,
}

/// The result of one case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseResult {
    /// Its name.
    pub case: &'static str,
    /// The ids that it covers.
    pub requirements: &'static [&'static str],
    /// Its profile.
    pub profile: Profile,
    /// Who was judged.
    pub role: Role,
    /// The browser engine, where one took part.
    pub engine: Option<String>,
    /// What came of it.
    pub verdict: Verdict,
    /// Why a failure is known and expected, where the baseline says so.
    #[serde(rename = "known_failure")]
    pub known: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
    /// What was arranged and seen to hold.
    pub precondition: Option<String>,
    /// What had to be seen.
    pub expected: Option<String>,
    /// What was seen.
    pub observed: Option<String>,
    /// What happened, without secrets.
    pub transcript: Vec<Event>,
    /// Whether it ended because the subject was not ready when it had to be. Its verdict says so in words.
    #[serde(skip)]
    pub never_ready: bool,
    /// The profile for want of which it does not apply.
    #[serde(skip)]
    pub unclaimed: Option<Profile>,
}

impl CaseResult {
    /// A result of a case that did not run.
    pub fn new(case: &Case, verdict: Verdict) -> Self {
        Self {
            case: case.name,
            requirements: case.requirements,
            profile: case.profile,
            role: case.role,
            engine: case.engine.map(|engine| engine.to_string()),
            verdict,
            known: None,
            duration_ms: 0,
            precondition: None,
            expected: None,
            observed: None,
            transcript: Vec::new(),
            never_ready: false,
            unclaimed: None,
        }
    }

    /// The result of a case whose profile is not claimed.
    pub fn unclaimed(case: &Case) -> Self {
        let why = format!("the subject does not claim the profile {}", case.profile);
        let result = Self::new(case, Verdict::NotApplicable).observed(why);
        Self { unclaimed: Some(case.profile), ..result }
    }

    /// With what was seen.
    #[must_use]
    pub fn observed(self, what: impl Into<String>) -> Self {
        Self { observed: Some(what.into()), ..self }
    }

    /// The part of the name before the slash.
    pub fn chapter(&self) -> &'static str {
        self.case.split_once('/').map_or(self.case, |(chapter, _)| chapter)
    }
}

/// How many results bear each verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields are the verdicts")]
pub struct Summary {
    pub pass: usize,
    pub fail: usize,
    pub warn: usize,
    pub not_applicable: usize,
    pub not_run: usize,
    pub untestable: usize,
    pub inconclusive: usize,
    pub harness_error: usize,
}

impl Summary {
    /// Counts results.
    pub fn of<'a>(results: impl IntoIterator<Item = &'a CaseResult>) -> Self {
        let mut summary = Self::default();
        for result in results {
            *summary.slot(result.verdict) += 1;
        }
        summary
    }

    /// How many bear this verdict.
    pub fn count(mut self, verdict: Verdict) -> usize {
        *self.slot(verdict)
    }

    fn slot(&mut self, verdict: Verdict) -> &mut usize {
        match verdict {
            Verdict::Pass => &mut self.pass,
            Verdict::Fail => &mut self.fail,
            Verdict::Warn => &mut self.warn,
            Verdict::NotApplicable => &mut self.not_applicable,
            Verdict::NotRun => &mut self.not_run,
            Verdict::Untestable => &mut self.untestable,
            Verdict::Inconclusive => &mut self.inconclusive,
            Verdict::HarnessError => &mut self.harness_error,
        }
    }

    /// The last line of the report, for people and scripts: the verdicts that occur, with their counts.
    pub fn line(self) -> String {
        let words = self.words();
        format!("cases: {}", if words.is_empty() { "none" } else { &words })
    }

    /// The verdicts that occur, with their counts, such as `60 pass, 1 fail`.
    pub fn words(self) -> String {
        let counts = Verdict::ALL.map(|verdict| (self.count(verdict), verdict));
        let words = counts.into_iter().filter(|(count, _)| *count > 0);
        words.map(|(count, verdict)| format!("{count} {verdict}")).collect::<Vec<_>>().join(", ")
    }
}

impl Report {
    /// The report of a run that began at `started` and was to have `planned` results.
    pub fn new(
        subject: SubjectFacts,
        seed: u64,
        started: SystemTime,
        planned: usize,
        results: Vec<CaseResult>,
    ) -> Self {
        Self {
            schema: SCHEMA,
            suite_version: env!("CARGO_PKG_VERSION"),
            spec: SPEC,
            subject,
            claim: Claim::seen_in(&results),
            seed,
            started: humantime::format_rfc3339_seconds(started).to_string(),
            complete: results.len() == planned,
            host: HostFacts { os: std::env::consts::OS, engines: Vec::new() },
            summary: Summary::of(&results),
            results,
            stale_baseline: Vec::new(),
        }
    }

    /// How the run ends. A known failure fails it as little as a pass does; an entry of the baseline that is no longer so
    /// does, unless something graver happened.
    pub fn exit_code(&self, strict: bool) -> ExitCode {
        let counted = |result: &CaseResult| result.known.as_ref().map_or(result.verdict, |_| Verdict::Pass);
        let verdicts: Vec<Verdict> = self.results.iter().map(counted).collect();
        match ExitCode::of(&verdicts, self.complete, strict) {
            graver @ (ExitCode::Interrupted | ExitCode::DoesNotConform | ExitCode::Fault) => graver,
            _ if !self.stale_baseline.is_empty() => ExitCode::StaleBaseline,
            other => other,
        }
    }

    /// How many failures are known.
    pub fn known(&self) -> usize {
        self.results.iter().filter(|result| result.known.is_some()).count()
    }

    /// The results by chapter, in their order.
    pub fn chapters(&self) -> impl Iterator<Item = (&'static str, &[CaseResult])> {
        self.results
            .chunk_by(|a, b| a.chapter() == b.chapter())
            .map(|results| (results[0].chapter(), results))
    }

    /// The whole in a line: how the run ends, and for which roles and profiles.
    pub fn title(&self) -> String {
        format!(
            "{}{}: {}",
            self.headline(),
            if self.claim.whole { "" } else { " in the selected cases" },
            self.claim
        )
    }

    /// Why cases do not apply, in lines: the profiles that are not claimed, and what the manifest lacks.
    pub fn inapplicable(&self) -> Vec<String> {
        let mut unclaimed = BTreeSet::new();
        let mut lacks: BTreeMap<&str, usize> = BTreeMap::new();
        for result in self.results.iter().filter(|result| result.verdict == Verdict::NotApplicable) {
            match &result.observed {
                Some(why) if result.unclaimed.is_none() => *lacks.entry(why).or_default() += 1,
                _ => unclaimed.extend(result.unclaimed),
            }
        }
        let mut lines = Vec::new();
        if !unclaimed.is_empty() {
            let names: Vec<&str> = unclaimed.into_iter().map(Profile::as_str).collect();
            lines.push(format!("not claimed: {} (`subject.profiles`, `--profile`)", names.join(", ")));
        }
        lines.extend(lacks.into_iter().map(|(why, count)| {
            let cases = if count == 1 { "case" } else { "cases" };
            format!("not applicable: {count} {cases}: {why}")
        }));
        lines
    }

    /// A few words for the whole: how the run ends.
    pub fn headline(&self) -> &'static str {
        match self.exit_code(false) {
            ExitCode::Conforms if self.known() > 0 => "conforms but for known failures",
            ExitCode::Conforms => "conforms",
            ExitCode::DoesNotConform => "does not conform",
            ExitCode::Undecided => "undecided",
            ExitCode::NothingSelected => "nothing judged",
            ExitCode::Interrupted => "interrupted",
            ExitCode::StaleBaseline => "stale baseline",
            ExitCode::Fault => "suite fault",
        }
    }
}

impl SubjectFacts {
    /// Looks at the executable and asks it for its version, for at most 5 seconds.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            name: manifest.subject.name.clone(),
            version: version(&manifest.subject.version),
            sha256: manifest.program().and_then(digest),
        }
    }
}

fn digest(program: &Path) -> Option<String> {
    Some(sha256_hex(&std::fs::read(program).ok()?))
}

fn version(command: &[String]) -> Option<String> {
    if command.is_empty() {
        return None;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let subject = Launch::new(command.iter().cloned()).var("PATH", path).start().ok()?;
    let ended = subject.wait_output_end(Instant::now() + Duration::from_secs(5));
    let output = ended.unwrap_or_else(|| subject.output()).stdout();
    let line = String::from_utf8_lossy(&output).lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}
