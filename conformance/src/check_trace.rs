//! `--check-trace`: whether a model of the protocol admits what was seen of a case.
//!
//! The model is a program of its own, so that what judges here shares no code with the subject: it is called as
//! `PROGRAM admits -`, reads a trace (`spec/schemas/observed-trace.schema.json`) on standard input, and answers with a
//! line and a status: 0 it admits the trace, 1 it refuses it, 4 the model has no word for what was seen.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::verdict::ExitCode;

/// The program cannot be asked. Always exit status 3.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum NoModel {
    /// It is nowhere.
    #[error("--check-trace: there is no program {} beside daemonspec or in PATH", .0.display())]
    #[diagnostic(help("build it (`cargo build -p local-daemon-model`), or name it: --check-trace=PROGRAM"))]
    Missing(PathBuf),
}

/// What the model answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Admitted,
    Refused,
    Outside,
    None,
}

#[derive(Debug)]
struct Finding {
    case: &'static str,
    answer: Answer,
    said: String,
}

/// Asks a model about each case of a run.
#[derive(Debug)]
pub struct Checker {
    program: PathBuf,
    /// Where refused traces are kept.
    folder: Option<PathBuf>,
    findings: Mutex<Vec<Finding>>,
}

impl Checker {
    /// A path, or a name that is looked for beside this program and in `PATH`. Refused traces go to `folder`.
    pub fn of(program: &Path, folder: Option<PathBuf>) -> Result<Self, NoModel> {
        let found = if program.components().count() > 1 {
            program.is_file().then(|| program.to_owned())
        } else {
            let beside = std::env::current_exe().ok();
            let beside = beside.as_deref().and_then(Path::parent).map(Path::to_owned);
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = beside.into_iter().chain(std::env::split_paths(&path));
            folders.map(|folder| folder.join(program)).find(|program| program.is_file())
        };
        Ok(Self {
            program: found.ok_or_else(|| NoModel::Missing(program.to_owned()))?,
            folder,
            findings: Mutex::default(),
        })
    }

    /// Asks about one case.
    pub(crate) fn judge(&self, case: &'static str, trace: &Value) {
        let (answer, mut said) = self
            .ask(trace)
            .unwrap_or_else(|error| (Answer::None, format!("{}: {error}", self.program.display())));
        if answer == Answer::Refused {
            let number = said.split_whitespace().find_map(|word| word.trim_end_matches(';').parse().ok());
            if let Some(event) = number.and_then(|number: usize| trace["events"].get(number)) {
                let _ = write!(said, "\n      {event}");
            }
        }
        if matches!(answer, Answer::Refused | Answer::None)
            && let Some(folder) = &self.folder
        {
            let path = folder.join(format!("{}.trace.json", case.replace('/', ".")));
            match std::fs::write(&path, format!("{trace:#}\n")) {
                Ok(()) => write!(said, "\n      trace: {}", path.display()),
                Err(error) => write!(said, "\n      {}: {error}", path.display()),
            }
            .unwrap_or_default();
        }
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.push(Finding { case, answer, said });
    }

    fn ask(&self, trace: &Value) -> io::Result<(Answer, String)> {
        let mut child = Command::new(&self.program)
            .args(["admits", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(trace.to_string().as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let answer = match output.status.code() {
            Some(0) => Answer::Admitted,
            Some(1) => Answer::Refused,
            Some(4) => Answer::Outside,
            _ => Answer::None,
        };
        let said = if answer == Answer::None { output.stderr } else { output.stdout };
        Ok((answer, String::from_utf8_lossy(&said).trim_end().to_owned()))
    }

    /// How many of each, and what was refused; with `verbose` every case.
    pub fn summary(&self, verbose: bool) -> String {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.sort_by_key(|finding| (finding.answer == Answer::Admitted, finding.case));
        let count = |answer| findings.iter().filter(|finding| finding.answer == answer).count();
        let mut text = String::from("\nTraces, against the model\n");
        for finding in findings.iter() {
            if verbose || matches!(finding.answer, Answer::Refused | Answer::None) {
                let _ = writeln!(text, "  {}: {}", finding.case, finding.said);
            }
        }
        let _ = writeln!(
            text,
            "  {} admitted, {} outside the model, {} refused",
            count(Answer::Admitted),
            count(Answer::Outside),
            count(Answer::Refused)
        );
        if count(Answer::None) > 0 {
            let _ = writeln!(text, "  {} not judged: the model did not answer", count(Answer::None));
        }
        text
    }

    /// The end of the run whose cases came to `code`.
    pub fn code(&self, code: ExitCode) -> ExitCode {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let any = |answer| findings.iter().any(|finding| finding.answer == answer);
        match code {
            ExitCode::Interrupted => code,
            _ if any(Answer::Refused) => ExitCode::DoesNotConform,
            ExitCode::DoesNotConform => code,
            _ if any(Answer::None) => ExitCode::Fault,
            _ => code,
        }
    }
}
