//! `daemonspec-subject`: daemons that the suite must judge rightly.
//!
//! The independent subject, whole or with a fault, and the degenerate ones, which do no more than a careless check would
//! accept.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use local_daemon_harness::actors::{Bind, Squatter};
use local_daemon_harness::proof::Credential;
use local_daemon_harness::record::{Record, write_credential};
use local_daemon_harness::subject::{client, daemon, fault, perimeter};

const USAGE: &str = "\
usage: daemonspec-subject daemon --state-dir DIR [--yield] [--allow-origin ORIGIN]... [--fault NAME]
       daemonspec-subject origins add|remove ORIGIN --state-dir DIR
       daemonspec-subject exit [STATUS]
       daemonspec-subject hang
       daemonspec-subject answer STATUS --state-dir DIR

daemon  is the independent subject; SUBJECT_PROTOCOL names another wire protocol than its own
origins edits the list of origins that it admits
exit    ends at once
hang    does nothing, for ever
answer  publishes a record and a credential that look right, and answers every request with STATUS";

enum Subject {
    Exit(u8),
    Hang,
    Answer { status: u16, state_dir: PathBuf },
}

impl Subject {
    fn parse(arguments: &[String]) -> Option<Self> {
        match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["exit"] => Some(Self::Exit(0)),
            ["exit", status] => Some(Self::Exit(status.parse().ok()?)),
            // What the suite appends, to name an origin for one, is no reason for these to end.
            ["hang", ..] => Some(Self::Hang),
            ["answer", status, "--state-dir", state_dir, ..] => {
                Some(Self::Answer { status: status.parse().ok()?, state_dir: state_dir.into() })
            }
            _ => None,
        }
    }

    fn run(self) -> std::io::Result<ExitCode> {
        match self {
            Self::Exit(status) => Ok(ExitCode::from(status)),
            Self::Hang => rest(),
            Self::Answer { status, state_dir } => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state_dir)?;
                let actor = Squatter::answering(status, "{}").start(Bind::V4)?;
                write_credential(&state_dir, &Credential::random())?;
                Record::new(actor.url(), std::process::id()).publish(&state_dir)?;
                rest()
            }
        }
    }
}

/// Until a signal ends the process.
fn rest() -> ! {
    loop {
        std::thread::park();
    }
}

/// Takes `--fault NAME` out of the arguments and makes this process have it.
fn take_fault(arguments: &mut Vec<String>) -> Result<(), String> {
    let Some(place) = arguments.iter().position(|argument| argument == "--fault") else {
        return Ok(());
    };
    let taken: Vec<String> = arguments.drain(place..arguments.len().min(place + 2)).collect();
    let name = taken.get(1).ok_or("--fault wants a name")?;
    if fault::choose(name) {
        return Ok(());
    }
    let near = fault::near(name).join(", ");
    Err(format!("no fault {name}; there are {near}"))
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(why) = take_fault(&mut arguments) {
        eprintln!("daemonspec-subject: {why}");
        return ExitCode::from(2);
    }
    match arguments.first().map(String::as_str) {
        Some("daemon") => return ExitCode::from(daemon::run(&arguments[1..])),
        Some("origins") => return ExitCode::from(perimeter::edit_origins(&arguments[1..])),
        _ => {}
    }
    if let Some(status) = client::run(&arguments) {
        return ExitCode::from(status);
    }
    let Some(subject) = Subject::parse(&arguments) else {
        eprintln!("{USAGE}\n\n{}", client::USAGE);
        return ExitCode::from(2);
    };
    subject.run().unwrap_or_else(|error| {
        eprintln!("daemonspec-subject: {error}");
        ExitCode::FAILURE
    })
}
