//! The command line: arguments, and how every command answers.

mod connect;
mod credential;
mod doctor;
mod launch;
mod open;
mod origins;
mod pages;
mod port;
mod run;
mod status;
mod stop;

use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use local_daemon::client::Connection;
use local_daemon::{Client, StateDir};
use miette::Diagnostic;
use serde_json::{Value, json};

use crate::daemon::COMPONENT;
use crate::error::Error;
use crate::render::printable;

/// The variable that names the wire protocol to run as and to ask for.
const PROTOCOL: &str = "LOCALD_PROTOCOL";

/// A local daemon: one process of yours that every tool finds, proves and shares.
#[derive(Parser)]
#[command(name = "locald", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Args {
    /// State directory [default: locald in your user's state directory]
    #[arg(long, global = true, value_name = "PATH", display_order = 100)]
    state_dir: Option<PathBuf>,

    /// Answer with one JSON object on standard output
    #[arg(long, global = true, display_order = 100)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  locald start                      start the daemon, or find the one that runs
  locald status --json              what runs, for programs
  locald connect --no-spawn         find it, and never start it
  locald open                       look at it in a browser
  locald run --state-dir ./state    run one in the foreground, for development
  locald stop && locald doctor      stop it; see that nothing is wrong

Exit codes: 0 ready or done, 2 usage, 10 absent, 11 stale, 12 busy, 13 foreign, 14 incompatible,
15 invalid, 16 spawn failed, 17 unreachable, 19 page not opened (open), 20 displaced (run),
1 anything else.

Environment: LOCALD_STATE_DIR, LOCALD_PROTOCOL (locald/1), LOCALD_LOG (info), LOCALD_LOG_FORMAT
(text or json), LOCALD_IDLE_TIMEOUT_SECONDS (300), LOCALD_DAEMON (program to start as the daemon),
BROWSER (what opens pages).";

#[derive(Subcommand)]
enum Command {
    /// Start the daemon in the background, or find the one that runs
    Start(connect::Start),
    /// Stop the daemon and wait until it is gone
    Stop(stop::Stop),
    /// Stop the daemon and start a new one
    Restart,
    /// Say what runs, and what to do where nothing does
    Status,
    /// Find the daemon and start it where it is missing, as a program would
    Connect(connect::Connect),
    /// Open the daemon's page in a browser
    Open(open::Open),
    /// Open the page of another origin, and let it in
    Handoff(open::Handoff),
    /// Say which pages were let in, and let them in no more
    #[command(subcommand)]
    Pages(pages::Pages),
    /// Run the daemon in the foreground
    Run(run::Run),
    /// Show or replace the secret that clients share with the daemon
    #[command(subcommand)]
    Credential(credential::Credential),
    /// Say which web pages may call the daemon
    #[command(subcommand)]
    Origins(origins::Origins),
    /// Look for what is wrong in the state directory
    Doctor(doctor::Doctor),
}

/// What every command needs.
struct Context {
    client: Client,
    protocol: String,
    json: bool,
}

impl Context {
    fn new(args: &Args) -> Result<Self, Error> {
        let protocol = env::var(PROTOCOL).ok().filter(|text| !text.is_empty());
        let protocol = protocol.unwrap_or_else(|| "locald/1".to_owned());
        let mut client = Client::new(COMPONENT, &protocol)?;
        if let Some(directory) = &args.state_dir {
            client = client.state_dir(directory);
        }
        Ok(Self { client, protocol, json: args.json })
    }

    fn directory(&self) -> &StateDir {
        self.client.directory()
    }

    fn state_dir(&self) -> String {
        self.directory().path().display().to_string()
    }

    /// The answer of a command: text, or one JSON object.
    fn answer(&self, text: &str, outcome: &str, members: Value) -> Result<(), Error> {
        if self.json {
            print(&object(outcome, members, Some(self.state_dir())))
        } else {
            print(&printable_lines(text.trim_end()))
        }
    }

    /// The answer of a connect that ended in `ready`.
    fn ready(&self, connection: &Connection) -> Result<(), Error> {
        let (record, theirs) = (connection.registration(), connection.handshake());
        let text = format!("{} is ready: pid {}, {}", theirs.protocol, theirs.pid, record.url);
        let json = json!({
            "id": theirs.id, "url": record.url, "pid": theirs.pid,
            "protocol": theirs.protocol, "version": theirs.version,
        });
        self.answer(&text, "ready", json)
    }
}

/// One JSON object on one line, the outcome first.
fn object(outcome: &str, members: Value, state_dir: Option<String>) -> String {
    #[derive(serde::Serialize)]
    struct Object<'a> {
        outcome: &'a str,
        #[serde(flatten)]
        members: Value,
        state_dir: Option<String>,
    }
    serde_json::to_string(&Object { outcome, members, state_dir })
        .expect("strings and objects always serialise")
}

/// Writes a line to standard output. That its reader has left, as in `locald status | head -0`, is not an error.
fn print(line: &str) -> Result<(), Error> {
    written(writeln!(io::stdout().lock(), "{line}"))
}

/// Flushes standard output after a write. That its reader has left is not an error.
fn written(written: io::Result<()>) -> Result<(), Error> {
    match written.and_then(|()| io::stdout().flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Error::Io {
            path: "standard output".into(),
            doing: "it cannot be written to",
            source,
        }),
        _ => Ok(()),
    }
}

/// Writes a line to standard error.
fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable_lines(line));
}

/// Makes each line of a text safe for a terminal: the text may contain a file name, an entry of a list or a daemon's message.
fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // clap returns help and version as errors too.
        Err(error) => {
            return match written(error.print()) {
                Err(fault) if !error.use_stderr() => report(&fault, false, None).into(),
                _ => u8::try_from(error.exit_code()).unwrap_or(1).into(),
            };
        }
    };
    match Context::new(&args).and_then(|context| dispatch(&context, args.command)) {
        Ok(code) => code.into(),
        Err(error) => report(&error, args.json, args.state_dir.as_deref()).into(),
    }
}

fn dispatch(context: &Context, command: Command) -> Result<u8, Error> {
    match command {
        Command::Start(start) => start.run(context),
        Command::Stop(stop) => stop.run(context),
        Command::Restart => stop::restart(context),
        Command::Status => status::run(context),
        Command::Connect(connect) => connect.run(context),
        Command::Open(open) => open.run(context),
        Command::Handoff(handoff) => handoff.run(context),
        Command::Pages(pages) => pages.run(context),
        Command::Run(run) => run.run(context),
        Command::Credential(credential) => credential.run(context),
        Command::Origins(origins) => origins.run(context),
        Command::Doctor(doctor) => doctor.run(context),
    }
}

/// Reports an error: as JSON on standard output if that was asked for (CONN-3), or else as text on standard error. Returns the
/// exit code.
fn report(error: &Error, json: bool, state_dir: Option<&Path>) -> u8 {
    if json {
        let state_dir =
            COMPONENT.parse().ok().and_then(|component| StateDir::locate(state_dir, &component).ok());
        let state_dir = state_dir.map(|directory| directory.path().display().to_string());
        let members =
            json!({"outcome": error.outcome(), "detail": error.to_string(), "state_dir": state_dir});
        return match print(&members.to_string()) {
            Ok(()) => error.exit_code(),
            Err(fault) => report(&fault, false, None),
        };
    }
    // In a log, and where a client quotes a log's last line, an error is one line.
    let space = if io::stderr().is_terminal() { "\n  help: " } else { "; " };
    let help = error.help().map_or_else(String::new, |help| format!("{space}{help}"));
    note(&format!("locald: {error}{help}"));
    error.exit_code()
}
