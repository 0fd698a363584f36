//! The commands of the client.

mod child;
mod connect;
pub(crate) mod faults;
mod manage;
mod open;
mod origins;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::connect::Client;
use self::manage::Report;
pub use self::origins::edit_origins;
use crate::credential;
use crate::fault::broken;
use crate::gate::PROTOCOL;
use crate::platform;
use crate::state_directory::{StateDir, create_for_the_owner_alone};

/// How the client is called.
pub const USAGE: &str = "\
daemonspec-subject connect [--no-spawn] [--replace] [--private] [OPTIONS]
       daemonspec-subject stop [--force] [OPTIONS]
       daemonspec-subject restart|rotate|repair|supervise [OPTIONS]
       daemonspec-subject open [--print-url] [--host HOST] [OPTIONS]
       daemonspec-subject handoff --origin ORIGIN [--print-url] [OPTIONS]

connect   finds the daemon or starts one; a private one ends with standard input
rotate    replaces the credential
repair    takes a stale record off
supervise keeps a daemon running
open      opens the daemon's page in a browser, and handoff the page of an origin

OPTIONS: [--state-dir DIR] [--timeout SECONDS] [--json] [--fault NAME]";

/// The exit status after wrong arguments.
const WRONG_USAGE: u8 = 2;
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the command line asks for.
#[derive(Default)]
struct Options {
    state_dir: Option<PathBuf>,
    timeout: Option<Duration>,
    json: bool,
    no_spawn: bool,
    replace: bool,
    private: bool,
    force: bool,
    print_url: bool,
    host: Option<String>,
    origin: Option<String>,
}

impl Options {
    /// `None` where an argument is not one of this command.
    fn parse(command: &str, arguments: &[String]) -> Option<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match (command, argument.as_str()) {
                (_, "--state-dir") => options.state_dir = Some(arguments.next()?.into()),
                (_, "--timeout") => {
                    options.timeout =
                        Some(Duration::try_from_secs_f64(arguments.next()?.parse().ok()?).ok()?);
                }
                (_, "--json") => options.json = true,
                ("connect", "--no-spawn") => options.no_spawn = true,
                ("connect", "--replace") => options.replace = true,
                ("connect", "--private") => options.private = true,
                ("stop", "--force") => options.force = true,
                ("open" | "handoff", "--print-url") => options.print_url = true,
                ("open", "--host") => options.host = Some(arguments.next()?.clone()),
                ("handoff", "--origin") => options.origin = Some(arguments.next()?.clone()),
                _ => return None,
            }
        }
        (options.origin.is_some() || command != "handoff").then_some(options)
    }
}

/// Runs a command of the client, and gives back its exit status; `None` where it is none.
pub fn run(arguments: &[String]) -> Option<u8> {
    let begin = Instant::now();
    let (command, arguments) = arguments.split_first()?;
    let commands = [
        "connect",
        "stop",
        "restart",
        "rotate",
        "repair",
        "supervise",
        "open",
        "handoff",
    ];
    if !commands.contains(&command.as_str()) {
        return None;
    }
    let Some(options) = Options::parse(command, arguments) else {
        eprintln!("usage: {USAGE}");
        return Some(WRONG_USAGE);
    };
    if !broken("DIR-16.umask-applies") {
        create_for_the_owner_alone();
    }
    if !broken("CRED-15.client-dumps") {
        credential::dump_nothing();
    }
    if !broken("CONN-46.wait") {
        platform::hear_of_children();
    }
    let directory = match StateDir::settle(options.state_dir.as_deref()) {
        Ok(directory) => directory,
        Err(fault) => {
            eprintln!("daemonspec-subject: {fault}");
            return Some(1);
        }
    };
    let client = Client {
        directory,
        protocol: std::env::var("SUBJECT_PROTOCOL").unwrap_or_else(|_| PROTOCOL.to_owned()),
        spawns: !options.no_spawn,
        replaces: options.replace,
        private: false,
        explicit: command == "restart",
        deadline: match options.timeout {
            _ if broken("CONN-10.none") => begin + Duration::from_hours(1),
            Some(timeout) if !broken("CONN-10.own") => begin + timeout,
            None if broken("CONN-10.long") => begin + TIMEOUT * 2,
            _ => begin + TIMEOUT,
        },
        diagnostics: Vec::new().into(),
    };
    let tell = |report: &Report| tell(report, options.json);
    let report = match command.as_str() {
        "stop" => manage::stop(&client, options.force),
        "restart" => manage::restart(&client),
        "rotate" => manage::replace_credential(&client.directory),
        "repair" => manage::repair(&client),
        "supervise" => manage::supervise(&client),
        "open" | "handoff" => {
            let host = options.host.as_deref();
            return Some(open::open(&client, options.origin.as_deref(), host, options.print_url));
        }
        _ if options.private => return Some(manage::private(client, tell).0),
        _ => manage::connect(&client),
    };
    tell(&report);
    Some(match report.0 {
        1.. if broken("CONN-2.one") => 1,
        _ if broken("CONN-2.zero") => 0,
        11 if broken("CONN-2.merged") => 10,
        status => status,
    })
}

/// Prints what a command came to.
fn tell((status, said): &Report, as_json: bool) {
    // Nobody may be left who reads it.
    let mut output = std::io::stdout();
    let as_json = as_json && !(broken("CONN-3.prose") && *status != 0);
    if broken("CONN-3.chatter") {
        println!("looking for the daemon");
    }
    let _ = if as_json {
        writeln!(output, "{said}")
    } else {
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        for note in said["diagnostics"].as_array().into_iter().flatten() {
            eprintln!("daemonspec-subject: {note}");
        }
        writeln!(output, "{}: {}", text("outcome"), text("message"))
    };
}
