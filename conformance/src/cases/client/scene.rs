//! What the cases of the client role arrange alike: a state directory with a daemon that the suite plays, a program in
//! the place of the daemon that a client starts, and a process that must come to no harm.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use local_daemon_harness::actors::{Actor, Bind, FakeDaemon, Seen, Squatter};
use local_daemon_harness::files::{FileEvent, FileEventKind, Watch, set_mode};
use local_daemon_harness::platform::make_fifo;
use local_daemon_harness::platform::which;
use local_daemon_harness::process::{Proc, Subject};
use local_daemon_harness::proof::Credential;
use local_daemon_harness::record::{Record, replace};
use local_daemon_harness::wait::until;

use super::super::scene::{NOBODYS_PID, count};
use crate::outcome::{Outcome, Stop};
use crate::stage::{Answer, Call, Stage};

/// Long enough for anything that a client does at once, on a busy host.
pub(super) const SOON: Duration = Duration::from_secs(5);

/// A state directory with a credential, and the protocol that the client speaks.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) credential: Credential,
    pub(super) protocol: String,
}

impl World {
    /// Makes the state directory and the credential.
    pub(super) fn new(stage: &mut Stage) -> Outcome<Self> {
        stage.arena().make_state_dir()?;
        let world = Self { credential: Credential::random(), protocol: stage.client()?.protocol };
        stage.transcript().hide(world.credential.bytes());
        world.write_credential(stage)?;
        Ok(world)
    }

    pub(super) fn write_credential(&self, stage: &Stage) -> Outcome {
        let text = format!("{}\n", self.credential.text());
        Ok(replace(&stage.credential_path(), text.as_bytes(), 0o600)?)
    }

    /// A ready daemon of the client's own protocol, about to be started. Its pid is nobody's.
    pub(super) fn daemon(&self) -> FakeDaemon {
        FakeDaemon { pid: NOBODYS_PID, ..FakeDaemon::new(&self.credential, &self.protocol) }
    }

    /// Starts a good daemon and publishes it, and sees that the client ends `ready` with it: whatever it is refused later,
    /// it is not refused for nothing.
    pub(super) fn good(&self, stage: &mut Stage) -> Outcome<Played> {
        let played = play_published(stage, self.daemon())?;
        connects(stage, &played)?;
        Ok(played)
    }
}

/// Starts a daemon that the suite plays, without publishing it.
pub(super) fn play(stage: &Stage, daemon: FakeDaemon) -> Outcome<Played> {
    let part = daemon.clone().part();
    let actor = part.noted(stage.transcript(), "played daemon").start(Bind::V4)?;
    let record = daemon.record(actor.address());
    Ok(Played { actor, daemon, record })
}

/// Starts a daemon that the suite plays, and publishes it.
pub(super) fn play_published(stage: &Stage, daemon: FakeDaemon) -> Outcome<Played> {
    let played = play(stage, daemon)?;
    publish(stage, &played.record)?;
    Ok(played)
}

/// A daemon that the suite plays.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) actor: Actor,
    pub(super) daemon: FakeDaemon,
    pub(super) record: Record,
}

/// Publishes a record in the arena's state directory.
pub(super) fn publish(stage: &Stage, record: &Record) -> Outcome {
    write_record(stage, record.to_json().as_bytes())
}

/// Puts these bytes in the place of the record.
pub(super) fn write_record(stage: &Stage, bytes: &[u8]) -> Outcome {
    Ok(replace(&stage.record_path(), bytes, 0o600)?)
}

/// The control: the client ends `ready` with the daemon that is published, and tells its id.
pub(super) fn connects(stage: &mut Stage, played: &Played) -> Outcome {
    let answer = stage.ask(Call::connect())?;
    if answer.outcome != "ready" || answer.id.as_ref().is_some_and(|id| *id != played.daemon.id) {
        stage.precondition("a daemon that proves itself is published");
        return Err(Stop::NotReady(format!("the client is not ready with a good daemon: {answer}")));
    }
    stage.control(format!("the client was ready with a good daemon of id {}", played.daemon.id));
    Ok(())
}

/// A fresh world in which the client was seen to be ready with a good daemon.
pub(super) fn furnished(stage: &mut Stage) -> Outcome<(World, Played)> {
    let world = World::new(stage)?;
    let played = world.good(stage)?;
    Ok((world, played))
}

/// The client's outcome has to be this one.
pub(super) fn ends(stage: &mut Stage, answer: &Answer, outcome: &str) -> Outcome {
    stage.ensure(answer.outcome == outcome, format!("not {outcome} but {answer}"))
}

/// The same, and says what it was before.
pub(super) fn ends_after(stage: &mut Stage, answer: &Answer, outcome: &str, before: &str) -> Outcome {
    let seen = format!("{before}: not {outcome} but {answer}");
    stage.ensure(answer.outcome == outcome, seen)
}

/// The client has to be ready with this daemon.
pub(super) fn ready_with(stage: &mut Stage, answer: &Answer, id: &str) -> Outcome {
    ends(stage, answer, "ready")?;
    let seen = format!("not ready with {id} but {answer}");
    stage.ensure(answer.id.as_deref() == Some(id), seen)
}

/// A record that leads to something that the suite plays, which is nobody's daemon.
pub(super) fn squat(stage: &Stage, squatter: Squatter) -> Outcome<(Actor, Record)> {
    let actor = squatter.noted(stage.transcript(), "squatter").start(Bind::V4)?;
    let record = Record::new(actor.url(), NOBODYS_PID);
    publish(stage, &record)?;
    Ok((actor, record))
}

/// A process that has nothing to do with any of this.
pub(super) fn bystander(stage: &Stage) -> Outcome<Subject> {
    Ok(stage.arena().launch("bystander", ["sleep", "600"]).start()?)
}

/// The bystander has to live. A signal may still be on its way when whoever sent it has ended, and nothing announces that
/// there is none.
pub(super) fn lives(stage: &mut Stage, bystander: &Subject, through: &str) -> Outcome {
    match bystander.wait_exit(Instant::now() + Duration::from_millis(200)) {
        None => Ok(()),
        Some(exit) => stage.fail(format!("the process at the recorded pid ended ({exit}) {through}")),
    }
}

/// An answerer that does something, with its own address, at its first request and before it answers.
pub(super) fn at_first(
    action: impl FnOnce(SocketAddr) + Send + 'static,
    answer: impl Fn(&Seen, SocketAddr) -> Vec<u8> + Send + Sync + 'static,
) -> Squatter {
    let action = Mutex::new(Some(action));
    Squatter::responding(move |seen, address| {
        if let Some(action) = action.lock().unwrap_or_else(PoisonError::into_inner).take() {
            action(address);
        }
        answer(seen, address)
    })
}

/// Publishes a record from another thread, such as an actor's.
pub(super) fn publisher(stage: &Stage, record: &Record) -> impl FnOnce(SocketAddr) + Send + 'static + use<> {
    let (path, bytes) = (stage.record_path(), record.to_json());
    move |_| {
        let _ = replace(&path, bytes.as_bytes(), 0o600);
    }
}

/// What a program in the daemon's place does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Nothing, for ever.
    Hangs,
    /// Ends with this status after these words on standard error.
    Ends(u8, &'static str),
    /// Waits for [`Spy::release`], then becomes the real daemon.
    Waits,
    /// Waits for [`Spy::release`], then ends with this status.
    WaitsAndEnds(u8),
    /// Becomes the real daemon.
    Runs,
}

/// A program in the place of the daemon that a client starts: it notes that it was started, and how.
#[derive(Debug)]
pub(super) struct Spy {
    dir: PathBuf,
    watch: Watch,
    gate: File,
}

impl Spy {
    /// Not applicable to a client that starts nothing, or whose manifest has no way to put a program there.
    pub(super) fn new(stage: &mut Stage, part: Part) -> Outcome<Self> {
        Self::named(stage, "spy", part)
    }

    /// One of several.
    pub(super) fn named(stage: &mut Stage, name: &str, part: Part) -> Outcome<Self> {
        let client = stage.client()?;
        if client.connect_or_spawn.is_none() {
            return stage.not_applicable("the manifest has no `client.connect_or_spawn`");
        }
        let Some(stand) = client.daemon else {
            return stage.not_applicable("the manifest has no `client.daemon`");
        };
        let dir = stage.arena().path().join(format!("{name}.d"));
        std::fs::create_dir(&dir)?;
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let command: Vec<String> = stand.command.iter().map(|word| quoted(word)).collect();
        let daemon = format!("exec {} \"$@\"", command.join(" "));
        let wait = "read -r _ < \"$spy/gate\"";
        let part = match part {
            Part::Hangs => match which("sleep") {
                Some(sleep) => format!("exec {} 600", sleep.display()),
                None => return stage.untestable("there is no `sleep`"),
            },
            Part::Ends(status, words) => format!("echo {} >&2; exit {status}", quoted(words)),
            Part::Waits => format!("{wait}; {daemon}"),
            Part::WaitsAndEnds(status) => format!("{wait}; exit {status}"),
            Part::Runs => daemon,
        };
        let script = format!(
            "#!/bin/sh\nspy={}\nprintf '%s\\n' \"$0\" \"$@\" > \"$spy/args.$$\"\necho $$ >> \"$spy/started\"\n{part}\n",
            quoted(&dir.to_string_lossy())
        );
        let program = dir.join("daemon");
        std::fs::write(&program, script)?;
        set_mode(&program, 0o700)?;
        let gate = dir.join("gate");
        make_fifo(&gate)?;
        // For reading too, so that neither side waits for the other to open it.
        let gate = File::options().read(true).write(true).open(gate)?;
        let watch = Watch::on(&dir)?;
        Ok(Self { dir, watch, gate })
    }

    /// The program.
    pub(super) fn program(&self) -> PathBuf {
        self.dir.join("daemon")
    }

    /// The pids under which it was started so far.
    pub(super) fn starts(&self) -> Vec<u32> {
        let started = std::fs::read_to_string(self.dir.join("started")).unwrap_or_default();
        started.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Waits until it was started; its pid.
    pub(super) fn started(&self, deadline: Instant) -> Option<u32> {
        self.watch.wait_event(deadline, FileEventKind::ClosedWrite, "started")?;
        self.starts().first().copied()
    }

    /// Whether it was started a second time by then.
    pub(super) fn started_again(&self, deadline: Instant) -> bool {
        let starts = |events: &[FileEvent]| count(events, FileEventKind::ClosedWrite, "started") > 1;
        self.watch.wait_for(deadline, starts).is_some()
    }

    /// The same as a precondition, of a client that was called with it.
    pub(super) fn seen_started(&self, stage: &mut Stage) -> Outcome<u32> {
        match self.started(Instant::now() + SOON) {
            Some(pid) => {
                stage.precondition(format!("the client started a daemon, pid {pid}"));
                Ok(pid)
            }
            None => Err(Stop::NotReady("the client started no daemon".to_owned())),
        }
    }

    /// The arguments that the start with this pid got, a line each.
    pub(super) fn args(&self, pid: u32) -> Vec<u8> {
        std::fs::read(self.dir.join(format!("args.{pid}"))).unwrap_or_default()
    }

    /// Lets one that waits go on.
    pub(super) fn release(&self) -> Outcome {
        Ok((&self.gate).write_all(b"\n")?)
    }

    /// Makes way for another one.
    pub(super) fn forget(&self) -> Outcome {
        Ok(std::fs::remove_dir_all(&self.dir)?)
    }
}

/// The process of a spy that hangs, as soon as the shell is gone.
pub(super) fn settled(pid: u32) -> Option<Proc> {
    until(Instant::now() + SOON, || Proc::of(pid).filter(|process| process.comm == "sleep"))
}

/// Waits until the process of this pid is gone, reaped or not.
pub(super) fn gone(pid: u32) -> bool {
    Proc::of(pid).is_none_or(|process| process.is_zombie() || process.wait_gone(Instant::now() + SOON))
}

/// No daemon may have been started, nor be about to: a client may end before its child has come as far as to say so.
pub(super) fn not_started(stage: &mut Stage, spy: &Spy, when: &str) -> Outcome {
    let left: Vec<String> = stage.arena().leaks().iter().map(ToString::to_string).collect();
    let starts = spy.starts().len();
    stage.ensure(
        starts == 0 && left.is_empty(),
        format!("{starts} daemons were started {when}; running: {}", left.join(", ")),
    )
}
