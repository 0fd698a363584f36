//! The daemon as a whole: the order of its launch, and its end.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub(super) use super::streams::Log;
use crate::browser;
use crate::convergence::{self, Neighbour, look_around};
use crate::credential::{self, Credential, Followed, betray};
use crate::fault::broken;
use crate::gate::{PROTOCOL, protocol};
use crate::origins::Allowlist;
use crate::perimeter::faults::normalised;
use crate::perimeter::is_origin;
use crate::platform;
use crate::product;
use crate::publish::{self, Bound, hear, listen, publish};
use crate::reason::Reason;
use crate::registration::{self, Found, Record, VERSION};
use crate::server;
use crate::state::Daemon;
use crate::state_directory::faults::{make_carelessly, tell_launcher};
use crate::state_directory::{CREDENTIAL, Fault, RECORD, StateDir, create_for_the_owner_alone};
use crate::world::{self, World};

/// Exit statuses of a launch that never got so far as to stand down.
const USAGE: u8 = 2;
const REFUSED: u8 = 15;
const UNREACHABLE: u8 = 17;
const FAILED: u8 = 1;

/// What a launch is told.
#[derive(Debug, Default)]
struct Options {
    state_dir: Option<PathBuf>,
    yields: bool,
    replaces: bool,
    origins: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value"));
            match argument.as_str() {
                "--state-dir" => options.state_dir = Some(value()?.into()),
                "--yield" => options.yields = true,
                "--replace" => options.replaces = true,
                "--product" => product::turn_on(),
                "--allow-origin" if broken("PER-40.normalised-at-start") => {
                    options.origins.push(normalised(value()?));
                }
                "--allow-origin" => options.origins.push(value()?.clone()),
                other => return Err(format!("unknown argument {other}")),
            }
        }
        match options.origins.iter().find(|origin| !is_origin(origin)) {
            Some(origin) => Err(format!("{origin} is no serialised origin")),
            None => Ok(options),
        }
    }
}

/// Runs a daemon to its end and gives back its exit status.
pub fn run(arguments: &[String]) -> u8 {
    match Options::parse(arguments).map_err(|why| (USAGE, why)).and_then(|options| start(&options)) {
        Ok(status) => status,
        Err((status, why)) => {
            eprintln!("daemonspec-subject: {why}");
            status
        }
    }
}

fn start(options: &Options) -> Result<u8, (u8, String)> {
    let spoken = std::env::var("SUBJECT_PROTOCOL").unwrap_or_else(|_| PROTOCOL.to_owned());
    protocol(&spoken)
        .ok_or_else(|| (USAGE, format!("SUBJECT_PROTOCOL: {spoken} is no protocol identifier")))?;
    create_for_the_owner_alone();
    if !broken("CRED-15.dumps") {
        credential::dump_nothing();
    }
    let refused = refuse;
    let cannot = |why: std::io::Error| (FAILED, why.to_string());
    let directory = StateDir::settle(options.state_dir.as_deref()).map_err(refused)?;
    if broken("DIR-12.waits")
        && directory.prepare().is_err_and(|fault| fault.why.starts_with("cannot create"))
    {
        thread::sleep(Duration::from_secs(3));
    }
    make_carelessly(directory.path(), "DIR-22.daemon", "DIR-23.daemon");
    directory.prepare().map_err(refused)?;
    publish::spoil(&directory);
    let before = Record::read(&directory, RECORD).id();
    let stopped = before.is_none() && directory.file(CREDENTIAL).exists();
    let credential = Credential::read_or_make(&directory).map_err(refused)?;
    betray(&credential);
    // Before there is a record that a signal could leave behind.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(cannot)?;
    platform::unblock(&[SIGTERM, SIGINT, SIGHUP]);
    let deaf = broken("PUB-4.before-listen") || broken("PUB-4.in-a-hurry-after-a-stop") && stopped;
    let Bound { listeners, address, is_whole } = listen(deaf).map_err(cannot)?;
    let id = registration::new_id(&directory);
    let page_host = is_whole.then(|| browser::page_host(&directory, &id));
    let record = Record {
        id: id.clone(),
        version: browser::faults::version(VERSION, page_host.as_deref()),
        url: registration::url(address),
        pid: registration::pid(),
        protocol: registration::hint(&spoken),
        world: World::told(),
    };
    let daemon = Arc::new(Daemon {
        credential: Followed::new(directory.clone(), credential.clone()),
        origins: Allowlist::new(directory.clone(), options.origins.clone()),
        log: Log::new(&id),
        directory,
        record,
        protocol: spoken,
        yields: options.yields,
        address,
        page_host,
        started_at: SystemTime::now(),
        began: Instant::now(),
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| cannot(error.into()))?,
        state: Mutex::default(),
        changed: Condvar::new(),
    });
    for listener in &listeners {
        let (serving, accepting) = (Arc::clone(&daemon), listener.try_clone().map_err(cannot)?);
        thread::spawn(move || server::accept(&serving, &accepting));
    }
    let signalled = Arc::clone(&daemon);
    thread::spawn(move || {
        for signal in &mut signals {
            if signal == SIGHUP {
                signalled.follow_files();
            } else {
                signalled.stand_down(Reason::Signal);
            }
        }
    });
    convergence::end_predecessor(&daemon.directory);
    let gives_way =
        || broken("PUB-7.healthy-stays") || broken("PUB-7.settled-stays") && convergence::is_settled(&daemon);
    let cannot_ask = OnceCell::new();
    let yields = || {
        if options.yields || gives_way() {
            match look_around(&daemon, &credential) {
                Neighbour::Ready => return true,
                Neighbour::CannotAsk(why) if options.yields && !options.replaces => {
                    return cannot_ask.set(why).is_ok();
                }
                Neighbour::CannotAsk(_) | Neighbour::Other => {}
            }
        }
        broken("CONV-13.stops-with-it") && before.is_some() && convergence::is_stopped(&daemon)
    };
    if broken("PUB-7.only-if-unchanged") && Record::read(&daemon.directory, RECORD).id() != before {
        return Err((FAILED, "another daemon has published meanwhile".to_owned()));
    }
    let predecessor = Record::read(&daemon.directory, RECORD);
    let hasty = broken("CONV-26.after-publishing");
    let published = publish(&daemon.directory, &daemon.record, || !hasty && yields());
    if !published.map_err(|fault| publish::failed(&daemon.directory, fault))? {
        return match cannot_ask.into_inner() {
            Some(why) if broken("CONV-35.status-one") => Err((FAILED, why)),
            Some(_) if broken("CONV-35.yields") => Ok(0),
            Some(why) => Err((UNREACHABLE, why)),
            None => Ok(u8::from(broken("CONV-26.status-one"))),
        };
    }
    if let (true, Found::Record(old)) = (hasty && options.yields, predecessor)
        && convergence::is_ready(&daemon, &old, &credential)
    {
        convergence::leave(&daemon, &Reason::Requested);
        return Ok(0);
    }
    if deaf {
        listeners.iter().try_for_each(hear).map_err(cannot)?;
    }
    tell_launcher(&daemon.record.id);
    browser::faults::tell_host(daemon.page_host.as_deref(), &daemon.directory, &daemon.log);
    daemon.log.append("lifecycle", &json!({"what": "ready"}));
    let reason = convergence::watch(&daemon);
    world::give_up();
    let late = broken("CONV-19.after-the-drain");
    if !late {
        convergence::leave(&daemon, &reason);
    }
    daemon.log.append("lifecycle", &json!({"what": "draining", "reason": reason.word()}));
    daemon.log.end(&reason);
    daemon.drain();
    if late {
        convergence::leave(&daemon, &reason);
    }
    Ok(reason.exit_status())
}

/// How a launch ends that may not use its state directory or its credential.
fn refuse(fault: Fault) -> (u8, String) {
    if broken("DIR-10.waits") {
        thread::sleep(Duration::from_secs(3));
    }
    if broken("PUB-11.removes-a-refused-credential") && fault.path.ends_with(CREDENTIAL) {
        let _ = std::fs::remove_file(&fault.path);
    }
    let said = if broken("DIR-11.no-path") {
        fault.why
    } else if broken("DIR-11.same-words") {
        format!("{}: permission denied", fault.path.display())
    } else if broken("DIR-11.standard-output") {
        println!("{fault}");
        "refused".to_owned()
    } else {
        fault.to_string()
    };
    (if broken("DIR-10.status-zero") { 0 } else { REFUSED }, said)
}
