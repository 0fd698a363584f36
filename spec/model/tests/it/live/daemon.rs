//! The daemon's puppet: the crate's `Claim` on real files and a real port.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use local_daemon::{StateDir, client};
use local_daemon_model::machine::{claim_id, protocol_number};
use local_daemon_proto::claim::{Claim, ClaimEffect, ClaimEvent, Reason};
use local_daemon_proto::handshake::{self, Handshake, Probe, State};
use local_daemon_proto::registration::{self, ClaimId, LoopbackHost, LoopbackUrl, Registration};
use local_daemon_proto::{Credential, Protocol};

use super::role::{DONE, Played, Puppet, Role, Told};
use super::words::daemon_wish;

pub(crate) struct Daemon {
    state_dir: StateDir,
    claim: Claim,
    protocol: Protocol,
    port: u16,
    first_launch: bool,
    credential: Option<Credential>,
    temporary: Option<PathBuf>,
    taken: Option<PathBuf>,
    server: Option<Server>,
}

impl Daemon {
    pub(crate) fn new(puppet: &Puppet) -> io::Result<Self> {
        let Role::Daemon { id, protocol, yields } = puppet.role else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let protocol = protocol_number(protocol);
        let mut daemon = Self {
            state_dir: StateDir::at(&puppet.state_dir),
            claim: Claim::new(claim_id(id), protocol.clone(), yields),
            protocol,
            port: puppet.ports[usize::from(id)],
            first_launch: puppet.first_launch,
            credential: None,
            temporary: None,
            taken: None,
            server: None,
        };
        daemon.settle()?;
        Ok(daemon)
    }

    /// Performs what nobody else can tell, as the model does without a step of its own.
    fn settle(&mut self) -> io::Result<()> {
        while let Some(effect) = self.claim.effect() {
            let silent = match effect {
                ClaimEffect::ReadCredential => !self.first_launch,
                ClaimEffect::Listen
                | ClaimEffect::WriteTemporary
                | ClaimEffect::DropTemporary
                | ClaimEffect::UnlinkTaken
                | ClaimEffect::ReadTaken
                | ClaimEffect::UnlinkOwn
                | ClaimEffect::Drain => true,
                _ => false,
            };
            if !silent {
                break;
            }
            self.step(client::PROBE_TIMEOUT)?;
        }
        self.show();
        Ok(())
    }

    /// From now on handshakes are answered as the machine now says.
    fn show(&self) {
        if let Some(server) = &self.server {
            let mut shown = server.shown.lock().expect("no panic while it is held");
            *shown = Some((self.claim.clone(), self.credential.clone()));
        }
    }

    fn step(&mut self, bound: std::time::Duration) -> io::Result<()> {
        if let Some(effect) = self.claim.effect() {
            let outcome = self.perform(&effect, bound)?;
            let published = effect == ClaimEffect::Publish && outcome == ClaimEvent::Done;
            self.claim.handle(outcome);
            if published || self.claim.reason() == Some(Reason::Yielded) {
                // Whoever started it may have gone.
                let _ = io::stdout().write_all(DONE);
            }
        }
        Ok(())
    }

    fn perform(&mut self, effect: &ClaimEffect, bound: std::time::Duration) -> io::Result<ClaimEvent> {
        let dir = &self.state_dir;
        let id = self.claim.id();
        Ok(match effect {
            ClaimEffect::Listen => {
                self.server = Some(Server::start(self)?);
                ClaimEvent::Done
            }
            ClaimEffect::ReadCredential => {
                self.credential = dir.read_credential().map_err(io::Error::other)?;
                match self.credential {
                    Some(_) => ClaimEvent::Done,
                    None => ClaimEvent::Missing,
                }
            }
            ClaimEffect::CreateCredential => {
                dir.create_credential().map_err(io::Error::other)?;
                ClaimEvent::Done
            }
            ClaimEffect::WriteTemporary => {
                let pid = NonZeroU32::new(std::process::id()).ok_or(io::ErrorKind::InvalidData)?;
                let record = registration(id, self.port, pid)?;
                self.temporary = Some(dir.write_temporary(&record).map_err(io::Error::other)?);
                ClaimEvent::Done
            }
            ClaimEffect::DropTemporary => {
                if let Some(temporary) = self.temporary.take() {
                    dir.drop_temporary(&temporary).map_err(io::Error::other)?;
                }
                ClaimEvent::Done
            }
            ClaimEffect::Publish => match self.temporary.take() {
                Some(temporary) => {
                    dir.publish(&temporary).map(|()| ClaimEvent::Done).map_err(io::Error::other)?
                }
                None => ClaimEvent::Failed,
            },
            ClaimEffect::ReadRecord => ClaimEvent::Record(dir.read_record().0),
            ClaimEffect::Probe(record) => ClaimEvent::Probed(match &self.credential {
                Some(credential) => client::look(record, credential, bound),
                None => Probe::NoCredential,
            }),
            ClaimEffect::ListTaken => {
                ClaimEvent::Taken(!dir.taken_of(id).map_err(io::Error::other)?.is_empty())
            }
            ClaimEffect::UnlinkTaken => {
                for taken in dir.taken_of(id).map_err(io::Error::other)? {
                    dir.unlink_taken(&taken).map_err(io::Error::other)?;
                }
                ClaimEvent::Done
            }
            ClaimEffect::Take => {
                self.taken = dir.take(id).map_err(io::Error::other)?;
                match self.taken {
                    Some(_) => ClaimEvent::Done,
                    None => ClaimEvent::Missing,
                }
            }
            ClaimEffect::ReadTaken => match &self.taken {
                Some(taken) => ClaimEvent::Record(dir.read_taken(taken)),
                None => ClaimEvent::Missing,
            },
            ClaimEffect::UnlinkOwn => {
                if let Some(taken) = self.taken.take() {
                    dir.unlink_taken(&taken).map_err(io::Error::other)?;
                }
                ClaimEvent::Done
            }
            ClaimEffect::Close => {
                if let Some(server) = self.server.take() {
                    server.close()?;
                }
                ClaimEvent::Done
            }
            ClaimEffect::Await(_) | ClaimEffect::Pause(_) | ClaimEffect::Drain => ClaimEvent::Done,
        })
    }
}

impl Played for Daemon {
    fn told(&mut self, told: Told) -> io::Result<()> {
        match told {
            Told::Go(bound) => {
                self.step(bound)?;
                // Two effects for the model's one: a wait that is over, and the read that it is over for.
                if self.claim.effect() == Some(ClaimEffect::ReadRecord) && self.claim.is_serving() {
                    self.step(bound)?;
                }
            }
            Told::Stop => {
                self.claim.stop();
                if matches!(self.claim.effect(), Some(ClaimEffect::Await(_))) {
                    self.step(client::PROBE_TIMEOUT)?;
                }
            }
            other => return Err(io::Error::other(format!("a daemon is told {other:?}"))),
        }
        self.settle()
    }

    fn word(&self) -> Option<String> {
        let wants = daemon_wish(&self.claim.effect()?);
        let state = self.claim.reason().map_or("serves", Reason::as_str);
        Some(format!("{state}, wants to {wants}"))
    }
}

/// The record of a daemon at `port`.
pub(crate) fn registration(id: ClaimId, port: u16, pid: NonZeroU32) -> io::Result<Registration> {
    let port = NonZeroU16::new(port).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(Registration {
        id,
        version: String::new(),
        url: LoopbackUrl::new(LoopbackHost::V4, port),
        pid,
        protocol: None,
        socket: None,
        started_at: None,
        world: registration::World::default(),
    })
}

/// What a handshake is answered by.
type Shown = (Claim, Option<Credential>);

/// Answers handshakes on a thread of its own, also while the machine waits to be told.
struct Server {
    /// `None` before the machine has shown anything, and when the server is to end.
    shown: Arc<Mutex<Option<Shown>>>,
    port: u16,
    thread: JoinHandle<()>,
}

impl Server {
    fn start(daemon: &Daemon) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, daemon.port))?;
        let shown = Arc::new(Mutex::new(Some((daemon.claim.clone(), None))));
        let (seen, dir, protocol) = (Arc::clone(&shown), daemon.state_dir.clone(), daemon.protocol.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let now = seen.lock().expect("no panic while it is held").clone();
                let Some((claim, credential)) = now else {
                    return;
                };
                // Whoever does not wait for the answer, or asks for something else, gets none.
                if let (Ok(stream), Some(credential)) = (stream, credential) {
                    let _ = answer(stream, &claim, &protocol, &credential, &dir);
                }
            }
        });
        Ok(Self { shown, port: daemon.port, thread })
    }

    fn close(self) -> io::Result<()> {
        *self.shown.lock().expect("no panic while it is held") = None;
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?);
        self.thread.join().map_err(|_| io::Error::other("the server has panicked"))
    }
}

fn answer(
    mut stream: TcpStream,
    claim: &Claim,
    protocol: &Protocol,
    credential: &Credential,
    state_dir: &StateDir,
) -> io::Result<()> {
    let authority = stream.local_addr()?.to_string();
    let mut asked = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let value = line.strip_prefix("Authorization: ");
        asked = value.and_then(handshake::parse_authorization).or(asked);
    }
    let proven =
        asked.filter(|(nonce, code)| *code == handshake::client_code(credential, &authority, *nonce));
    let Some((nonce, _)) = proven else {
        return stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    };
    let state = claim.state(&state_dir.read_record().0);
    let handshake = Handshake {
        protocol: protocol.clone(),
        id: claim.id(),
        pid: NonZeroU32::new(std::process::id()).ok_or(io::ErrorKind::InvalidData)?,
        version: String::new(),
        state,
        capabilities: Vec::new(),
    };
    let body = handshake.to_bytes();
    let status = match state {
        State::Ready => "200 OK",
        State::Draining => "503 Service Unavailable",
    };
    let code = handshake::answer(handshake::daemon_code(credential, &authority, nonce, &body));
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}: {code}\r\nConnection: close\r\n\r\n",
        body.len(),
        handshake::SCHEME
    );
    stream.write_all(&[head.as_bytes(), &body].concat())
}
