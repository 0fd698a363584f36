//! The model's walks, made by real processes on real files. A puppet is a process that runs the crate's `Claim` on a real
//! state directory and performs one step whenever it is told to; the walk tells it, and compares what it and the files
//! show with what the model's world says, after each step.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead, BufReader, Write},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use local_daemon::{
    ClaimId, Registration, StateDir,
    claim::{Claim, Effect, Outcome, Sight},
};

use crate::world::{Action, Log, Setting, World};

/// The protocol that every puppet speaks.
const PROTOCOL: &str = "acme/1";

/// Runs one puppet: a line `go` on standard input is one step, `stop` a request to stop; each is answered by a line with
/// the reason for standing down, `serving` where there is none, or `over` once it has exited.
///
/// # Errors
/// The state directory does not allow what a step needs, or the walk has gone.
pub fn puppet(state_dir: &Path, id: u8) -> io::Result<()> {
    let protocol = PROTOCOL.parse().map_err(io::Error::other)?;
    let mut puppet = Puppet {
        state_dir: StateDir::at(state_dir),
        claim: Claim::new(claim_id(id), protocol, false),
        temporary: None,
        taken: None,
    };
    puppet.settle()?;
    puppet.say()?;
    for line in io::stdin().lock().lines() {
        if line? == "go" {
            puppet.step()?;
            // Two effects for the model's one: a wait that is over, and the read that it is over for.
            if puppet.claim.next() == Some(Effect::ReadRecord) && puppet.claim.is_serving() {
                puppet.step()?;
            }
        } else {
            puppet.claim.stop();
            if matches!(puppet.claim.next(), Some(Effect::Await(_))) {
                puppet.step()?;
            }
        }
        puppet.settle()?;
        puppet.say()?;
    }
    Ok(())
}

fn claim_id(id: u8) -> ClaimId {
    ClaimId::from_bits(u128::from(id))
}

struct Puppet {
    state_dir: StateDir,
    claim: Claim,
    temporary: Option<PathBuf>,
    taken: Option<PathBuf>,
}

impl Puppet {
    fn say(&self) -> io::Result<()> {
        let word = match (self.claim.next(), self.claim.reason()) {
            (None, _) => "over",
            (_, Some(reason)) => reason.as_str(),
            (_, None) => "serving",
        };
        writeln!(io::stdout(), "{word}")
    }

    /// Performs what nobody else can tell, as the model does without a step of its own.
    fn settle(&mut self) -> io::Result<()> {
        while let Some(
            Effect::Listen
            | Effect::ReadCredential
            | Effect::WriteTemporary
            | Effect::DropTemporary
            | Effect::UnlinkTaken
            | Effect::ReadTaken
            | Effect::UnlinkOwn
            | Effect::Drain,
        ) = self.claim.next()
        {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> io::Result<()> {
        if let Some(effect) = self.claim.next() {
            let outcome = self.perform(&effect)?;
            self.claim.on(outcome);
        }
        Ok(())
    }

    fn perform(&mut self, effect: &Effect) -> io::Result<Outcome> {
        let dir = &self.state_dir;
        let id = self.claim.id();
        Ok(match effect {
            Effect::WriteTemporary => {
                let record = Registration {
                    id,
                    version: String::new(),
                    url: "http://127.0.0.1:1".parse().map_err(io::Error::other)?,
                    pid: NonZeroU32::new(std::process::id()).ok_or(io::ErrorKind::InvalidData)?,
                    protocol: None,
                    socket: None,
                    started_at: None,
                };
                self.temporary = Some(dir.write_temporary(&record).map_err(io::Error::other)?);
                Outcome::Done
            }
            Effect::DropTemporary => {
                if let Some(temporary) = self.temporary.take() {
                    dir.drop_temporary(&temporary).map_err(io::Error::other)?;
                }
                Outcome::Done
            }
            Effect::Publish => match self.temporary.take() {
                Some(temporary) => dir
                    .publish(&temporary)
                    .map(|()| Outcome::Done)
                    .map_err(io::Error::other)?,
                None => Outcome::Failed,
            },
            Effect::ReadRecord => Outcome::Record(dir.read_record().0),
            Effect::ListTaken => Outcome::Taken(!dir.taken_of(id).map_err(io::Error::other)?.is_empty()),
            Effect::UnlinkTaken => {
                for taken in dir.taken_of(id).map_err(io::Error::other)? {
                    dir.unlink_taken(&taken).map_err(io::Error::other)?;
                }
                Outcome::Done
            }
            Effect::Take => {
                self.taken = dir.take(id).map_err(io::Error::other)?;
                match self.taken {
                    Some(_) => Outcome::Done,
                    None => Outcome::Missing,
                }
            }
            Effect::ReadTaken => match &self.taken {
                Some(taken) => Outcome::Record(dir.read_taken(taken)),
                None => Outcome::Missing,
            },
            Effect::UnlinkOwn => {
                if let Some(taken) = self.taken.take() {
                    dir.unlink_taken(&taken).map_err(io::Error::other)?;
                }
                Outcome::Done
            }
            // The listener, the credential and the waits are not what these walks are about.
            _ => Outcome::Done,
        })
    }
}

/// A puppet as its walk sees it.
struct Strings {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    word: String,
}

impl Strings {
    fn start(program: &Path, state_dir: &Path, id: u8) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(["puppet", "--id", &id.to_string(), "--state-dir"])
            .arg(state_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let output = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let mut puppet = Self {
            child,
            input,
            output,
            word: String::new(),
        };
        puppet.listen()?;
        Ok(puppet)
    }

    fn tell(&mut self, what: &str) -> io::Result<()> {
        writeln!(self.input, "{what}")?;
        self.listen()
    }

    fn listen(&mut self) -> io::Result<()> {
        self.word.clear();
        if self.output.read_line(&mut self.word)? == 0 {
            return Err(io::Error::other("a puppet has ended without a word"));
        }
        self.word.truncate(self.word.trim_end().len());
        Ok(())
    }

    fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        "over".clone_into(&mut self.word);
        Ok(())
    }
}

impl Drop for Strings {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left of it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Walks once through the worlds of `setting`, which has only daemons, along the successors that `choose` picks (it is
/// given how many there are), with real processes beside it. Returns the number of steps.
///
/// # Errors
/// What differed, with the walk that led there; or a process or file that could not be had.
pub fn walk(
    setting: &Setting,
    program: &Path,
    folder: &Path,
    mut choose: impl FnMut(usize) -> usize,
) -> io::Result<usize> {
    let state_dir = StateDir::at(&folder.join("state"));
    state_dir.create().map_err(io::Error::other)?;
    let mut world = setting.initial();
    let mut puppets = setting
        .running(&world)
        .into_iter()
        .map(|id| Strings::start(program, state_dir.path(), id))
        .collect::<io::Result<Vec<_>>>()?;
    let mut lines = Vec::new();
    let mut successors = Vec::new();
    loop {
        successors.clear();
        setting.successors(&world, &mut successors);
        if successors.is_empty() {
            break;
        }
        let (action, next) = successors[choose(successors.len())];
        let mut log = Log::kept();
        setting.act(&mut world.clone(), action, &mut log);
        lines.push(format!("{} {}", action.who(), log.said()));
        match action {
            Action::Daemon(id) => puppets[usize::from(id)].tell("go")?,
            Action::Stop(id) => puppets[usize::from(id)].tell("stop")?,
            Action::Crash(id) => puppets[usize::from(id)].kill()?,
            Action::Remove => fs::remove_file(state_dir.file(local_daemon::state_dir::REGISTRATION))?,
            // A puppet that is not told to go on is as stopped as one that SIGSTOP holds.
            _ => {}
        }
        world = next;
        if let Some(difference) = difference(setting, &world, &puppets, &state_dir)? {
            return Err(io::Error::other(format!(
                "{difference}, after:\n{}",
                lines.join("\n")
            )));
        }
    }
    Ok(lines.len())
}

/// How the processes and files differ from the model's world.
fn difference(
    setting: &Setting,
    world: &World,
    puppets: &[Strings],
    state_dir: &StateDir,
) -> io::Result<Option<String>> {
    let running = setting.running(world);
    for (id, puppet) in (0_u8..).zip(puppets) {
        let expected = match setting.reason(world, id) {
            _ if !running.contains(&id) => "over",
            Some(reason) => reason.as_str(),
            None => "serving",
        };
        if puppet.word != expected {
            return Ok(Some(format!(
                "D{id} is {}, and the model's is {expected}",
                puppet.word
            )));
        }
    }
    let record = match state_dir.read_record().0 {
        Sight::Record(record) => Some(record.id),
        Sight::Missing => None,
        other => return Ok(Some(format!("the record is {other:?}"))),
    };
    let expected = setting.owner(world).map(claim_id);
    if record != expected {
        return Ok(Some(format!(
            "the record is {record:?}, and the model's is {expected:?}"
        )));
    }
    // Of daemons that have gone, the model forgets what can no longer matter.
    let mut taken = BTreeSet::new();
    for id in &running {
        if !state_dir
            .taken_of(claim_id(*id))
            .map_err(io::Error::other)?
            .is_empty()
        {
            taken.insert(*id);
        }
    }
    let expected: BTreeSet<u8> = setting
        .taken(world)
        .into_iter()
        .filter(|id| running.contains(id))
        .collect();
    Ok((taken != expected).then(|| format!("the taken files hold {taken:?}, and the model's {expected:?}")))
}
