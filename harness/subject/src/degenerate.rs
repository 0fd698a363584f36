//! The degenerate subjects, which do no more than a careless check would accept.

use std::fs::DirBuilder;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use crate::credential::rotate;
use crate::publish::publish;
use crate::registration::Record;
use crate::state_directory::{StateDir, random_hex};
use crate::world::World;

/// A subject that is no implementation of the protocol.
pub enum Degenerate {
    /// Ends at once, with this status.
    Exit(u8),
    /// Does nothing, without end.
    Hang,
    /// Publishes files that look right, and answers every request with `status`.
    Answer {
        /// The status of every answer.
        status: u16,
        /// Where the files are published.
        state_dir: PathBuf,
    },
}

impl Degenerate {
    /// Reads the command line; returns `None` if it names none of these subjects.
    pub fn parse(arguments: &[String]) -> Option<Self> {
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

    /// Runs until the subject ends by itself or by a signal.
    pub fn run(self) -> io::Result<ExitCode> {
        match self {
            Self::Exit(status) => Ok(ExitCode::from(status)),
            Self::Hang => rest(),
            Self::Answer { status, state_dir } => {
                answer(status, &state_dir)?;
                rest()
            }
        }
    }
}

/// Waits until a signal ends the process.
fn rest() -> ! {
    loop {
        thread::park();
    }
}

/// Answers every request with `status`, behind a record and a credential that look right.
fn answer(status: u16, state_dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("http://{}", listener.local_addr()?);
    let answer =
        format!("HTTP/1.1 {status} Suite\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{{}}");
    let answer: Arc<[u8]> = answer.into_bytes().into();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || serve(stream, &answer));
        }
    });
    let directory = StateDir::settle(Some(state_dir)).map_err(io::Error::other)?;
    rotate(&directory).map_err(io::Error::other)?;
    let record = Record {
        id: random_hex::<16>(),
        version: "0.0.0".to_owned(),
        url,
        pid: std::process::id(),
        protocol: None,
        world: World::default(),
    };
    publish(&directory, &record, || false).map_err(io::Error::other)?;
    Ok(())
}

/// Answers each whole request of a connection alike.
fn serve(mut stream: TcpStream, answer: &[u8]) {
    let (mut piece, mut unread) = ([0; 16 * 1024], Vec::new());
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        unread.extend_from_slice(&piece[..n]);
        while let Some(length) = request_length(&unread) {
            unread.drain(..length);
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    }
}

/// Returns the length of the request at the start of `bytes`, if it is whole.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(bytes).ok()? else {
        return None;
    };
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Some(0), |header| std::str::from_utf8(header.value).ok()?.parse().ok())?;
    start.checked_add(length).filter(|end| *end <= bytes.len())
}
