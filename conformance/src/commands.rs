//! The subcommands, and how they tell of problems.

pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod interop;
pub(crate) mod list;
pub(crate) mod mutants;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod soak;

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use local_daemon_conformance::preflight;
use local_daemon_conformance::report::Report;
use local_daemon_conformance::report::terminal::{self, Style};
use local_daemon_conformance::runner::Stopper;
use local_daemon_conformance::verdict::ExitCode;
use local_daemon_harness::guardian;
use miette::{Diagnostic, SourceSpan};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The signals that were ignored when this process began.
pub(crate) static IGNORED: OnceLock<Vec<i32>> = OnceLock::new();

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
        Self { code, text: format!("{what}{help}") }
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
            let line = std::str::from_utf8(contents.data()).ok()?.lines().next()?.trim_end().to_owned();
            Some(format!("\n  line {}: {line}", contents.line() + 1))
        };
        let help = fault.help().map(|help| help.to_string());
        Self::new(ExitCode::Fault, format!("{fault}{}", place().unwrap_or_default()), help.as_deref())
    }

    /// Prints it; what is left is the exit status.
    pub(crate) fn tell(self) -> ExitCode {
        eprintln!("daemonspec: {}", self.text);
        self.code
    }
}

/// Prints to standard output. That its reader has left is not a problem.
pub(crate) fn print(text: &str) -> Result<(), Problem> {
    written(std::io::stdout().lock().write_all(text.as_bytes()))
}

/// Flushes standard output after a write. That its reader has left is not a problem.
pub(crate) fn written(written: std::io::Result<()>) -> Result<(), Problem> {
    match written.and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Problem::fault(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a report for a person, in colour on a terminal.
pub(crate) fn show(report: &Report, strict: bool, verbose: bool) -> Result<(), Problem> {
    print(&rendered(report, strict, verbose, std::io::stdout().is_terminal()))
}

/// Prints it to standard error, where standard output is for programs.
pub(crate) fn show_aside(report: &Report, strict: bool, verbose: bool) {
    eprint!("{}", rendered(report, strict, verbose, std::io::stderr().is_terminal()));
}

fn rendered(report: &Report, strict: bool, verbose: bool, terminal: bool) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    terminal::render(report, Style { colour: terminal && !plain, strict, verbose })
}

/// Puts this process in order for a run: looks at what it needs of the host, starts its guardian, and lets signals end it.
pub(crate) fn begin(stopper: &Stopper) -> Result<(), Problem> {
    if let Some(lack) = preflight::first_lack() {
        let what = format!("this host lacks what a run needs, and nothing was judged: {}", lack.why);
        return Err(Problem::new(ExitCode::Fault, what, Some(&lack.remedy)));
    }
    // This very program, also if another one was put at its path meanwhile.
    let started = guardian::start(std::process::Command::new("/proc/self/exe").arg(GUARD));
    started.map_err(|error| Problem::fault(format!("cannot start the process that clears up: {error}")))?;
    stop_on_signal(stopper).map_err(|error| Problem::fault(format!("cannot handle signals: {error}")))
}

/// The command by which this program calls itself as the guardian of another process of it.
pub(crate) const GUARD: &str = "guard";

/// How many cases run at the same time: what was wanted, or what suits this machine.
pub(crate) fn jobs(wanted: Option<u16>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    wanted.map_or_else(|| (cores * 2).min(4), usize::from)
}

/// The first signal ends the run in order, the second at once. A hangup that was ignored at the start, as `nohup` does,
/// stays ignored.
fn stop_on_signal(stopper: &Stopper) -> std::io::Result<()> {
    let heeded = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| {
        *signal != SIGHUP || !IGNORED.get().is_some_and(|ignored| ignored.contains(&SIGHUP))
    });
    let mut signals = Signals::new(heeded)?;
    let stopper = stopper.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if stopper.is_stopped() {
                guardian::dismiss();
                std::process::exit(i32::from(ExitCode::Interrupted as u8));
            }
            stopper.stop();
        }
    })?;
    Ok(())
}

/// A line while it runs, on a terminal alone.
pub(crate) fn progress(length: usize) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {prefix} {msg}")
        .expect("the template is a constant");
    let bar = ProgressBar::with_draw_target(Some(length as u64), target).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
