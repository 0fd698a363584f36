//! The command line of the conformance suite.

mod commands;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode as Status;

use clap::{Args, Parser, Subcommand};
use local_daemon_conformance::engines::Wanted;
use local_daemon_conformance::report::Target;
use local_daemon_conformance::verdict::ExitCode;
use local_daemon_harness::guardian;
use local_daemon_harness::platform::put_signals_in_order;
use local_daemon_spec::{Profile, Role};

const EXIT_CODES: &str = "\
Exit status:
    0  the subject conforms; or the command did what it was asked
    1  it does not: at least one case failed (with --strict, or warned)
    2  nothing failed, but a claimed profile has inconclusive cases or ones that this host cannot observe
    3  nothing was judged: the subject is never ready, a claimed profile has no cases, or the suite, its input or this host
       is at fault: manifest, program, usage, a report that cannot be written
    4  nothing selected, or nothing of that name
    5  a stale baseline
  130  interrupted: subjects ended, reports written and marked incomplete";

const INTEROP_EXIT_CODES: &str = "\
Exit status:
    0  every pair works
    1  at least one does not
    2  none fails, but an implementation cannot run here, or a check cannot be made
    3  the suite or its input is at fault
    4  there is no pair
  130  interrupted";

const MUTANTS_EXIT_CODES: &str = "\
Exit status:
    0  every fault is killed
    1  at least one survived
    2  none survived, but this host lets no case judge some of them
    3  the subject without a fault is not clean, or usage, manifest or a file is at fault
    4  no such fault or case, or none selected
  130  interrupted";

const SOAK_EXIT_CODES: &str = "\
Exit status:
    0  every fault was outlived or recovered from, nothing was lost, and no more is in use than before
    1  that is not so
    2  it is, but this host does not let some faults be done
    3  the suite or its input is at fault
  130  interrupted";

/// Judges any implementation of the Local Daemon Protocol from outside.
#[derive(Debug, Parser)]
#[command(name = "daemonspec", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the cases against a subject and report.
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
    /// List the cases, or every requirement with what meets and what judges it.
    List(ListArgs),
    /// Explain a case or a requirement: the sentence, why, the cases, where the code meets it.
    Explain {
        /// A case's name, such as publish/partial-record-never-observed, or an id, such as PUB-3.
        name: String,
    },
    /// Write a commented manifest to FILE, or to standard output.
    Init {
        /// Must not be there yet.
        file: Option<PathBuf>,
    },
    /// Repeat a case that failed, from its file: the same subject, case and seed.
    #[command(after_help = EXIT_CODES)]
    Replay {
        /// Written by `daemonspec run --failures DIR`.
        file: PathBuf,
    },
    /// Run the commands for maintainers of the suite.
    #[command(subcommand)]
    Dev(DevCommand),
    /// Say what this host lets the suite observe, and how to get what is missing.
    Doctor {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Run every client with every daemon of several implementations.
    #[command(after_help = INTEROP_EXIT_CODES)]
    Interop(InteropArgs),
    /// Judge the suite: run it against each fault of the independent subject.
    #[command(after_help = MUTANTS_EXIT_CODES)]
    Mutants(MutantsArgs),
    /// Load a daemon and break it and others, for as long as wanted.
    #[command(after_help = SOAK_EXIT_CODES)]
    Soak(SoakArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The subject's manifest; `daemonspec init` writes one.
    subject: Option<PathBuf>,
    /// Only the cases whose name matches; `*` matches any text. May be repeated: one that matches nothing is then a warning.
    #[arg(long = "case", value_name = "GLOB")]
    cases: Vec<String>,
    /// Only the cases of this profile; without a manifest, the profiles that the subject claims [default: core]. May be
    /// repeated.
    #[arg(long = "profile", value_name = "PROFILE")]
    profiles: Vec<Profile>,
    /// Only the cases that judge this role.
    #[arg(long, value_name = "daemon|client")]
    role: Option<Role>,
    /// The engines of the browser cases: chromium, firefox and webkit, separated by commas, or all, or none. A case whose
    /// engine is left out or not there is untestable.
    #[arg(long, value_name = "ENGINES", default_value = "all")]
    browser: Wanted,
    /// Count a violated recommendation as a failure.
    #[arg(long)]
    strict: bool,
    /// Show every case, and not only those that need a look.
    #[arg(short, long)]
    verbose: bool,
    /// How many cases run at the same time [default: twice the cores, at most 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// The seed of every random choice.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Failures that are known: they do not fail the run, and an entry that is no longer so does, with status 5.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Write the failures of this run as a baseline, with the reasons of the one that was given.
    #[arg(long, value_name = "FILE")]
    write_baseline: Option<PathBuf>,
    /// Write a file for each case that fails or comes to no verdict, for `daemonspec replay`.
    #[arg(long, value_name = "DIR")]
    failures: Option<PathBuf>,
    /// Ask a model of the protocol whether it admits what was seen of each case: of files, handshakes, signals and
    /// exits. A refused case makes the run not conform; with --failures its trace is kept. PROGRAM is called as
    /// `PROGRAM admits -` and looked for beside daemonspec, then in PATH.
    #[arg(long, value_name = "PROGRAM", num_args = 0..=1, require_equals = true,
        default_missing_value = "local-daemon-model")]
    check_trace: Option<PathBuf>,
    /// Also write the report as json, junit, html, markdown or badge. A FILE `-` is standard output, and what is otherwise
    /// printed goes to standard error. May be repeated.
    #[arg(long = "report", value_name = "FORMAT=FILE")]
    reports: Vec<Target>,
    /// Run the cases also if the subject does not become ready at its first launch: how the suite is judged by subjects that
    /// can pass nothing.
    #[arg(long, hide = true)]
    never_ready: bool,
    /// In the place of a manifest: the daemon's command, with `{state_dir}` where it takes its state directory.
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "subject")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct InteropArgs {
    /// Manifests with a daemon, a client or both [default: locald, independent, python and javascript].
    subjects: Vec<PathBuf>,
    /// For programs.
    #[arg(long)]
    json: bool,
    /// How many checks run at the same time [default: twice the cores, at most 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// The seed of every random choice.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Args)]
struct MutantsArgs {
    /// Only the faults whose name, such as PUB-3.truncate, matches; `*` matches any text. May be repeated.
    #[arg(long = "fault", value_name = "GLOB")]
    faults: Vec<String>,
    /// Only the faults of requirements of this profile. May be repeated.
    #[arg(long = "profile", value_name = "PROFILE")]
    profiles: Vec<Profile>,
    /// Let the browser cases of these engines judge as well: chromium, firefox and webkit, separated by commas, or all.
    #[arg(long, value_name = "ENGINES", default_value = "none")]
    browser: Wanted,
    /// Only so many faults of each chapter and role, drawn by the seed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    sample: Option<u16>,
    /// Run every case against every fault, and not only those that cover the broken requirement; takes hours.
    #[arg(long)]
    all: bool,
    /// Leave out the cases whose name matches, to see which faults survive then. May be repeated.
    #[arg(long, value_name = "CASE")]
    without: Vec<String>,
    /// How many cases run at the same time [default: twice the cores, at most 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// The seed of the sample and of every random choice.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Also write the matrix as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also write the matrix for programs.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Another manifest than the independent subject's; its commands take `--fault NAME`.
    #[arg(long, value_name = "FILE")]
    subject: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SoakArgs {
    /// The subject's manifest.
    subject: PathBuf,
    /// For how long.
    #[arg(long, value_name = "MINUTES", default_value_t = 1.0, value_parser = minutes)]
    minutes: f64,
    /// Only the faults whose name, such as load/paused, matches; `*` matches any text. May be repeated.
    #[arg(long = "fault", value_name = "GLOB")]
    faults: Vec<String>,
    /// For programs.
    #[arg(long)]
    json: bool,
    /// The seed of every random choice.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// More than nothing, and less than a week.
fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if minutes > 0.0 && minutes < 10_000.0 {
        Ok(minutes)
    } else {
        Err("between 0 and 10000".to_owned())
    }
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Every requirement with its level, role, profile, state, cases and citations.
    #[arg(long)]
    requirements: bool,
    /// For programs.
    #[arg(long)]
    json: bool,
}

/// Returns the arguments of this process. Scripts may still call the commands of `dev` without `dev`.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let place = if arguments.get(1).is_some_and(|argument| argument == "help") { 2 } else { 1 };
    let command = arguments.get(place).and_then(|argument| argument.to_str());
    if command.is_some_and(DevCommand::has_subcommand) {
        arguments.insert(place, "dev".into());
    }
    arguments
}

fn main() -> Status {
    // Before there is any other thread.
    let ignored = put_signals_in_order();
    if std::env::args_os().nth(1).is_some_and(|command| command == commands::GUARD) {
        guardian::guard(std::io::stdin().lock());
        return Status::SUCCESS;
    }
    commands::IGNORED.get_or_init(|| ignored);
    let cli = match Cli::try_parse_from(arguments()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors, too, and are none.
            let code = if error.use_stderr() { ExitCode::Fault } else { ExitCode::Conforms };
            let printed = commands::written(error.print());
            return match printed {
                Err(problem) if !error.use_stderr() => problem.tell().into(),
                _ => code.into(),
            };
        }
    };
    let ended = match cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Replay { file } => commands::replay::replay(&file),
        Command::Dev(DevCommand::Interop(args)) => commands::interop::interop(args),
        Command::Dev(DevCommand::Mutants(args)) => commands::mutants::mutants(&args),
        Command::Dev(DevCommand::Soak(args)) => commands::soak::soak(&args),
        Command::List(args) if args.requirements => commands::list::requirements(args.json),
        Command::List(args) => commands::list::cases(args.json),
        Command::Explain { name } => commands::explain::explain(&name),
        Command::Init { file } => commands::init::init(file.as_deref()),
        Command::Doctor { json } => commands::doctor::doctor(json),
    };
    ended.unwrap_or_else(commands::Problem::tell).into()
}
