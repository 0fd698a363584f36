//! The model's walks, made by real processes on real files, over real loopback. A [`Puppet`] is a process that runs one
//! of the crate's machines and performs one step whenever it is told to; the walk tells it, and compares what the
//! processes and files show with what the model's world says, after each step.
//!
//! What the model calls a pause or a crash is a signal to the process. Time is the walk's to give: a probe of a stopped
//! process is told a short bound, every other one a bound that no busy machine exceeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use local_daemon::StateDir;
use local_daemon::state_directory::REGISTRATION;
use local_daemon_model::machine::claim_id;
use local_daemon_model::scenario::Kind;
use local_daemon_model::world::{Action, Log, Phase, Setting, World};
use local_daemon_proto::claim;
use local_daemon_proto::registration::RecordRead;

use super::daemon;
use super::role::{Puppet, Role, Told};
use super::strings::Strings;
use super::words::wish;

/// A probe of a process that answers may take this long.
const AMPLE: Duration = Duration::from_secs(20);
/// A probe of a stopped process.
const SCANT: Duration = Duration::from_millis(20);

/// Walks once through the worlds of `setting`, which has daemons and callers and gives no id out twice, along the
/// successors that `choose` picks (it is given how many there are), with real processes beside it. With
/// `credulous`, the clients are broken, and the walk has to notice. Returns the number of steps.
///
/// # Errors
/// What differed, with the walk that led there; or a process or file that could not be had.
pub(crate) fn walk(
    setting: &Setting,
    folder: &Path,
    credulous: bool,
    mut choose: impl FnMut(usize) -> usize,
) -> io::Result<usize> {
    // So that the children of killed clients can be waited for.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut world = setting.initial();
    let mut stage = Stage::set(setting, &world, folder, credulous)?;
    let mut lines = Vec::new();
    let mut successors = Vec::new();
    loop {
        setting.successors(&world, &mut successors);
        if successors.is_empty() || setting.is_spent(&world) {
            break;
        }
        let (action, next) = successors[choose(successors.len())];
        let mut log = Log::kept();
        setting.act(&mut world.clone(), action, &mut log);
        let said = log.said();
        lines.push(format!("{} {said}", action.who()));
        let difference = match stage.follow(setting, &world, action, &next) {
            Ok(()) => stage.difference(setting, &next, action, &said)?,
            Err(error) => Some(error.to_string()),
        };
        if let Some(difference) = difference {
            let walked = lines.join("\n");
            return Err(io::Error::other(format!("{difference}, after:\n{walked}")));
        }
        world = next;
    }
    Ok(lines.len())
}

/// Where the puppets play.
struct Stage {
    /// By name; dropped before what they play on.
    puppets: BTreeMap<String, Strings>,
    state_dir: StateDir,
    socket: UnixListener,
    /// Bound, and not listened on: nobody else is given the port of a daemon that is not there.
    _ports: Vec<OwnedFd>,
}

impl Stage {
    fn set(setting: &Setting, world: &World, folder: &Path, credulous: bool) -> io::Result<Self> {
        let scenario = &setting.scenario;
        let state_dir = StateDir::at(&folder.join("state"));
        state_dir.create().map_err(io::Error::other)?;
        if !scenario.first_launch {
            state_dir.create_credential().map_err(io::Error::other)?;
        }
        let (kept, mut ports): (Vec<_>, Vec<_>) = (0..scenario.slots)
            .map(|_| reserved())
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        if scenario.squatter {
            ports[0] = squatter()?;
        }
        if scenario.stale {
            let record = daemon::registration(claim_id(0), ports[0], NonZeroU32::MIN)?;
            let temporary = state_dir.write_temporary(&record).map_err(io::Error::other)?;
            state_dir.publish(&temporary).map_err(io::Error::other)?;
        }
        let strings = folder.join("strings");
        let socket = UnixListener::bind(&strings)?;
        let mut stage = Self { puppets: BTreeMap::new(), state_dir, socket, _ports: kept };
        let daemons = setting.running(world).into_iter().map(|id| Role::Daemon {
            id,
            protocol: setting.protocol_of(world, id),
            yields: false,
        });
        let clients = (0..).zip(scenario.clients).map(|(id, kind)| match *kind {
            Kind::Caller { protocol, ignores_lock, sandboxed: false } => {
                Ok(Role::Client { id, protocol, ignores_lock, credulous })
            }
            _ => Err(io::Error::other("supervisors and sandboxes have no puppets")),
        });
        for role in daemons.map(Ok).chain(clients) {
            let puppet = Puppet {
                role: role?,
                state_dir: stage.state_dir.path().to_owned(),
                strings: strings.clone(),
                ports: ports.clone(),
                first_launch: scenario.first_launch,
            };
            let child = puppet.start(Stdio::null())?;
            stage.welcome(Some(&child))?;
        }
        Ok(stage)
    }

    fn welcome(&mut self, child: Option<&std::process::Child>) -> io::Result<()> {
        let puppet = Strings::of_next(&self.socket, child)?;
        self.puppets.insert(puppet.name.clone(), puppet);
        Ok(())
    }

    /// The puppets do what the model has done between two worlds.
    fn follow(&mut self, setting: &Setting, world: &World, action: Action, next: &World) -> io::Result<()> {
        let go = Told::Go(self.patience(&action.who()));
        let Some(puppet) = self.puppets.get_mut(&action.who()) else {
            return match action {
                Action::Remove => fs::remove_file(self.state_dir.file(REGISTRATION)),
                _ => Err(io::Error::other(format!("there is no {}", action.who()))),
            };
        };
        match action {
            Action::Daemon(_) => puppet.tell(go),
            Action::Client(_) => match setting.started(world, next) {
                Some(child) => {
                    puppet.tell(Told::Start(child))?;
                    self.welcome(None)
                }
                // There is no room for another daemon: what follows is outside the bound.
                None if setting.is_spent(next) => Ok(()),
                None => puppet.tell(go),
            },
            Action::LockTimeout(_) => puppet.tell(Told::Vain),
            Action::Second(_) => puppet.tell(Told::Second),
            Action::Expire(_) => puppet.tell(Told::Expire),
            Action::Stop(_) => puppet.tell(Told::Stop),
            Action::Crash(_) => puppet.kill(),
            Action::Pause(_) => puppet.pause(),
            Action::Resume(_) => puppet.resume(),
            Action::Reuse(_) | Action::Remove => Err(io::Error::other("ports are not reused here")),
        }
    }

    /// How long a probe may take that this puppet is about to make.
    fn patience(&self, who: &str) -> Duration {
        let target = self.puppets.get(who).and_then(|puppet| {
            let named = puppet.word.split_whitespace().find(|word| word.starts_with('D'))?;
            self.puppets.get(named.trim_end_matches(','))
        });
        if target.is_some_and(|target| target.is_paused) { SCANT } else { AMPLE }
    }

    /// How the processes and files differ from the model's world, after a step of which the model says `said`.
    fn difference(
        &self,
        setting: &Setting,
        world: &World,
        action: Action,
        said: &str,
    ) -> io::Result<Option<String>> {
        if setting.is_spent(world) {
            return Ok(None);
        }
        let running = setting.running(world);
        for (name, puppet) in &self.puppets {
            let number = name[1..].parse().map_err(io::Error::other)?;
            let expected = if name.starts_with('D') {
                if running.contains(&number) {
                    let state = setting.reason(world, number).map_or("serves", claim::Reason::as_str);
                    format!("{state}, wants to {}", wish(setting.daemon_wants(world, number)))
                } else {
                    "is over".to_owned()
                }
            } else {
                match setting.phases(world).nth(usize::from(number)) {
                    Some(Phase::Calling) => {
                        let lock = if setting.holds_lock(world, number) { ", holds the lock" } else { "" };
                        format!("wants to {}{lock}", wish(setting.client_wants(world, number)))
                    }
                    Some(Phase::Connected(daemon)) => format!("is connected to D{daemon}"),
                    Some(Phase::Crashed) => "is over".to_owned(),
                    // The model keeps no more of a call than that it is over; the step that ended it says how.
                    _ if *name == action.who() && said.contains("ends: ") => {
                        said[said.rfind("ends: ").unwrap_or_default()..].to_owned()
                    }
                    _ => puppet.word.clone(),
                }
            };
            if puppet.word != expected {
                return Ok(Some(format!("{name} {}, and the model's {expected}", puppet.word)));
            }
        }
        let record = match self.state_dir.read_record().0 {
            RecordRead::Record(record) => Some(record.id),
            RecordRead::Missing => None,
            other => return Ok(Some(format!("the record is {other:?}"))),
        };
        let expected = setting.owner(world).map(claim_id);
        if record != expected {
            return Ok(Some(format!("the record is {record:?}, and the model's is {expected:?}")));
        }
        let credential = self.state_dir.read_credential().map_err(io::Error::other)?;
        if credential.is_some() != setting.is_credential_made(world) {
            return Ok(Some("the credential is there in one of both alone".to_owned()));
        }
        // Of daemons that have gone, the model forgets what can no longer matter.
        let mut taken = BTreeSet::new();
        for id in &running {
            let files = self.state_dir.taken_of(claim_id(*id)).map_err(io::Error::other)?;
            if !files.is_empty() {
                taken.insert(*id);
            }
        }
        let expected: BTreeSet<u8> =
            setting.taken(world).into_iter().filter(|id| running.contains(id)).collect();
        Ok((taken != expected)
            .then(|| format!("the taken files hold {taken:?}, and the model's {expected:?}")))
    }
}

/// A port that refuses connections until somebody who asks for it by number listens.
fn reserved() -> io::Result<(OwnedFd, u16)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, address.port()))
}

/// The port of somebody who does not know the credential, as long as this process runs.
fn squatter() -> io::Result<u16> {
    static PORT: OnceLock<u16> = OnceLock::new();
    if let Some(port) = PORT.get() {
        return Ok(*port);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that has seen enough goes away.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
    });
    Ok(*PORT.get_or_init(|| port))
}
