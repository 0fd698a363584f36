//! The subcommands, and how they tell of problems.

pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod run;

use std::io::Write as _;

use local_daemon_conformance::verdict::ExitCode;
use miette::{Diagnostic, SourceSpan};

/// Why a command does not do what it was asked.
#[derive(Debug)]
pub(crate) struct Problem {
    code: ExitCode,
    text: String,
}

impl Problem {
    /// A problem with a suggestion.
    pub(crate) fn new(code: ExitCode, what: impl std::fmt::Display, help: Option<&str>) -> Self {
        let help = help.map(|help| format!("\n  help: {help}")).unwrap_or_default();
        Self {
            code,
            text: format!("{what}{help}"),
        }
    }

    /// The suite or its input is at fault.
    pub(crate) fn fault(what: impl std::fmt::Display) -> Self {
        Self::new(ExitCode::Fault, what, None)
    }

    /// A fault with its line in the text, where it has one.
    pub(crate) fn of(fault: &dyn Diagnostic) -> Self {
        let place = || {
            let span: SourceSpan = *fault.labels()?.next()?.inner();
            let contents = fault.source_code()?.read_span(&span, 0, 0).ok()?;
            let line = std::str::from_utf8(contents.data())
                .ok()?
                .lines()
                .next()?
                .trim_end()
                .to_owned();
            Some(format!("\n  line {}: {line}", contents.line() + 1))
        };
        let help = fault.help().map(|help| help.to_string());
        Self::new(
            ExitCode::Fault,
            format!("{fault}{}", place().unwrap_or_default()),
            help.as_deref(),
        )
    }

    /// Prints it; what is left is the exit status.
    pub(crate) fn tell(self) -> ExitCode {
        eprintln!("daemonspec: {}", self.text);
        self.code
    }
}

/// Prints to standard output; a reader that has left is no problem.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
