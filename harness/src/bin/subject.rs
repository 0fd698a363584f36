//! `daemonspec-subject`: daemons that the suite must judge rightly.
//!
//! So far the degenerate ones, which do no more than a careless check would accept.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use local_daemon_harness::actors::{Bind, Squatter};
use local_daemon_harness::proof::Credential;
use local_daemon_harness::record::{Record, write_credential};

const USAGE: &str = "\
usage: daemonspec-subject exit [STATUS]
       daemonspec-subject hang
       daemonspec-subject answer STATUS --state-dir DIR

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
            ["hang"] => Some(Self::Hang),
            ["answer", status, "--state-dir", state_dir] => Some(Self::Answer {
                status: status.parse().ok()?,
                state_dir: state_dir.into(),
            }),
            _ => None,
        }
    }

    fn run(self) -> std::io::Result<ExitCode> {
        match self {
            Self::Exit(status) => Ok(ExitCode::from(status)),
            Self::Hang => rest(),
            Self::Answer { status, state_dir } => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&state_dir)?;
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

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(subject) = Subject::parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    subject.run().unwrap_or_else(|error| {
        eprintln!("daemonspec-subject: {error}");
        ExitCode::FAILURE
    })
}
