//! `daemonspec-subject`: daemons that the suite must judge rightly.
//!
//! The independent subject, whole or with a fault, and the degenerate ones, which do no more than a careless check would
//! accept.

use std::process::ExitCode;

use local_daemon_subject::degenerate::Degenerate;
use local_daemon_subject::{client, faults, launch};

const USAGE: &str = "\
usage: daemonspec-subject daemon --state-dir DIR [--yield] [--replace] [--product] [--allow-origin ORIGIN]...
                                 [--fault NAME]
       daemonspec-subject origins add|remove ORIGIN --state-dir DIR
       daemonspec-subject exit [STATUS]
       daemonspec-subject hang
       daemonspec-subject answer STATUS --state-dir DIR

daemon  is the independent subject; SUBJECT_PROTOCOL names another wire protocol than its own; a product has events of its
        own topic, and no notes
origins edits the list of origins that it admits
exit    ends at once
hang    does nothing, for ever
answer  publishes a record and a credential that look right, and answers every request with STATUS";

/// Takes `--fault NAME` out of the arguments and makes this process have it.
fn take_fault(arguments: &mut Vec<String>) -> Result<(), String> {
    let Some(place) = arguments.iter().position(|argument| argument == "--fault") else {
        return Ok(());
    };
    let taken: Vec<String> = arguments.drain(place..arguments.len().min(place + 2)).collect();
    let name = taken.get(1).ok_or("--fault wants a name")?;
    if faults::choose(name) {
        return Ok(());
    }
    let near = faults::near(name).join(", ");
    Err(format!("no fault {name}; there are {near}"))
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(why) = take_fault(&mut arguments) {
        eprintln!("daemonspec-subject: {why}");
        return ExitCode::from(2);
    }
    match arguments.first().map(String::as_str) {
        Some("daemon") => return ExitCode::from(launch::run(&arguments[1..])),
        Some("origins") => return ExitCode::from(client::edit_origins(&arguments[1..])),
        _ => {}
    }
    if let Some(status) = client::run(&arguments) {
        return ExitCode::from(status);
    }
    let Some(subject) = Degenerate::parse(&arguments) else {
        eprintln!("{USAGE}\n\n{}", client::USAGE);
        return ExitCode::from(2);
    };
    subject.run().unwrap_or_else(|error| {
        eprintln!("daemonspec-subject: {error}");
        ExitCode::FAILURE
    })
}
