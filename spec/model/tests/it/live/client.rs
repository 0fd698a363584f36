//! The client's puppet: the crate's `Connect` on real files, the real lock, real probes, and real children.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::process::{ChildStdout, Stdio};
use std::time::Duration;

use local_daemon::{StateDir, client};
use local_daemon_model::machine::protocol_number;
use local_daemon_proto::Registration;
use local_daemon_proto::connect::{
    Child, Connect, ConnectEffect, ConnectEvent, ConnectOutcome, LOCK_TIMEOUT, Policy,
};
use local_daemon_proto::handshake::{Handshake, Probe, State};
use rustix::fs::{OFlags, fcntl_setfl};

use super::role::{DONE, Played, Puppet, Role, Told};
use super::words::{client_wish, name};

/// Long enough to see that the lock does not come.
const VAIN: Duration = Duration::from_millis(10);
/// Long enough for a lock that nobody holds.
const FREE: Duration = Duration::from_secs(10);

pub(crate) struct Client {
    puppet: Puppet,
    state_dir: StateDir,
    protocol: u8,
    ignores_lock: bool,
    credulous: bool,
    machine: Connect,
    lock: Option<File>,
    /// Where the child says that it is done; it ends with the child.
    child: Option<ChildStdout>,
    said: Child,
}

impl Client {
    pub(crate) fn new(puppet: &Puppet) -> io::Result<Self> {
        let Role::Client { protocol, ignores_lock, credulous, .. } = puppet.role else {
            return Err(ErrorKind::InvalidInput.into());
        };
        Ok(Self {
            puppet: puppet.clone(),
            state_dir: StateDir::at(&puppet.state_dir),
            protocol,
            ignores_lock,
            credulous,
            machine: call(protocol),
            lock: None,
            child: None,
            said: Child::Silent,
        })
    }

    /// Performs the next effect.
    fn step(&mut self, bound: Duration) -> io::Result<()> {
        let Some(effect) = self.machine.effect() else {
            return self.look_again(bound);
        };
        let observed = match effect {
            ConnectEffect::ReadRecord => ConnectEvent::Record(self.state_dir.read_record().0),
            ConnectEffect::Probe(record) => ConnectEvent::Probed(self.probe(&record, bound)?),
            ConnectEffect::Lock => {
                return self.lock(FREE);
            }
            ConnectEffect::Unlock => {
                self.lock = None;
                ConnectEvent::Unlocked
            }
            ConnectEffect::Spawn => {
                return Err(io::Error::other("a client starts a daemon that it was not told of"));
            }
            ConnectEffect::Await(_) => {
                return self.wake(Duration::ZERO);
            }
        };
        self.machine.handle(observed);
        Ok(())
    }

    /// Taking the lock, or going on without it, is one step with the read that follows.
    fn lock(&mut self, bound: Duration) -> io::Result<()> {
        if !self.ignores_lock {
            self.lock = self.state_dir.lock(bound);
        }
        self.machine.handle(ConnectEvent::Locked(self.lock.is_some()));
        self.step(bound)
    }

    /// So is the end of a wait.
    fn wake(&mut self, waited: Duration) -> io::Result<()> {
        if let Some(output) = &mut self.child {
            let mut said = Vec::new();
            let ended = match output.read_to_end(&mut said) {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) => return Err(error),
            };
            if said.ends_with(DONE) {
                self.said = Child::Done;
            } else if ended && self.said == Child::Silent {
                self.said = Child::Failed;
            }
        }
        self.machine.handle(ConnectEvent::Woken(self.said, waited));
        self.step(Duration::ZERO)
    }

    fn probe(&self, record: &Registration, bound: Duration) -> io::Result<Probe> {
        if self.credulous {
            return Ok(Probe::Proven(Handshake {
                protocol: protocol_number(self.protocol),
                id: record.id,
                pid: record.pid,
                version: String::new(),
                state: State::Ready,
                capabilities: Vec::new(),
            }));
        }
        let credential = self.state_dir.read_credential().map_err(io::Error::other)?;
        Ok(credential.map_or(Probe::NoCredential, |credential| client::look(record, &credential, bound)))
    }

    /// A client whose daemon leaves calls again; one whose daemon is still ready does not.
    fn look_again(&mut self, bound: Duration) -> io::Result<()> {
        let Some(ConnectOutcome::Ready(found)) = self.machine.outcome() else {
            return Ok(());
        };
        let (record, _) = &**found;
        let ready = matches!(self.probe(record, bound)?, Probe::Proven(now) if now.id == record.id && now.state == State::Ready);
        if !ready {
            self.machine = call(self.protocol);
            self.child = None;
            self.said = Child::Silent;
        }
        Ok(())
    }

    fn spawn(&mut self, id: u8) -> io::Result<()> {
        if self.machine.effect() != Some(ConnectEffect::Spawn) {
            return Err(io::Error::other("a client does not want to start a daemon"));
        }
        let role = Role::Daemon { id, protocol: self.protocol, yields: true };
        let puppet = Puppet { role, ..self.puppet.clone() };
        let mut child = puppet.start(Stdio::piped())?;
        let output = child.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
        fcntl_setfl(&output, OFlags::NONBLOCK)?;
        self.child = Some(output);
        self.machine.handle(ConnectEvent::Spawned);
        Ok(())
    }
}

fn call(protocol: u8) -> Connect {
    Connect::new(Policy { protocol: protocol_number(protocol), spawn: true, replace: false })
}

impl Played for Client {
    fn told(&mut self, told: Told) -> io::Result<()> {
        match told {
            Told::Go(bound) => self.step(bound)?,
            Told::Vain => self.lock(VAIN)?,
            Told::Second => self.wake(LOCK_TIMEOUT)?,
            Told::Expire => self.machine.expire(),
            Told::Start(id) => self.spawn(id)?,
            Told::Stop => return Err(io::Error::other("a client is told to stop")),
        }
        // Giving the lock back is one step with what led to it.
        if self.machine.effect() == Some(ConnectEffect::Unlock) {
            self.step(Duration::ZERO)?;
        }
        Ok(())
    }

    fn word(&self) -> Option<String> {
        Some(match (self.machine.effect(), self.machine.outcome()) {
            (Some(effect), _) => {
                let lock = if self.lock.is_some() { ", holds the lock" } else { "" };
                format!("wants to {}{lock}", client_wish(&effect))
            }
            (None, Some(ConnectOutcome::Ready(found))) => format!("is connected to {}", name(found.0.id)),
            (None, outcome) => format!("ends: {}", outcome.map_or("in silence", ConnectOutcome::as_str)),
        })
    }
}
