//! What a subject wrote.

use std::io::{self, Read};
use std::time::Instant;

use crate::transcript::{Transcript, printable};
use crate::wait::Shared;

/// Output beyond this many bytes is counted, not kept.
pub const MOST_OUTPUT: usize = 1024 * 1024;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a subject wrote, as far as it was kept.
#[derive(Debug, Clone, Default)]
pub struct Output {
    chunks: Vec<(Instant, Stream, Vec<u8>)>,
    kept: usize,
    /// Bytes beyond [`MOST_OUTPUT`].
    pub dropped: u64,
    open: u8,
}

impl Output {
    /// Nothing yet, of two streams that are open.
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), kept: 0, dropped: 0, open: 2 }
    }

    /// Everything on standard output.
    pub fn stdout(&self) -> Vec<u8> {
        self.of(|stream| stream == Stream::Stdout)
    }

    /// Everything on standard error.
    pub fn stderr(&self) -> Vec<u8> {
        self.of(|stream| stream == Stream::Stderr)
    }

    /// Both, in the order of arrival.
    pub fn all(&self) -> Vec<u8> {
        self.of(|_| true)
    }

    /// Every read with its time.
    pub fn chunks(&self) -> &[(Instant, Stream, Vec<u8>)] {
        &self.chunks
    }

    /// Whether both outputs were closed by everyone who held them.
    pub fn ended(&self) -> bool {
        self.open == 0
    }

    fn of(&self, wanted: impl Fn(Stream) -> bool) -> Vec<u8> {
        self.chunks
            .iter()
            .filter(|(_, stream, _)| wanted(*stream))
            .flat_map(|(_, _, bytes)| bytes.clone())
            .collect()
    }
}

pub(super) fn capture(
    mut pipe: Box<dyn Read + Send>,
    stream: Stream,
    output: &Shared<Output>,
    transcript: &Transcript,
    actor: &str,
) {
    let what = if stream == Stream::Stdout { "stdout" } else { "stderr" };
    // Whole lines reach the transcript, so that a secret written in two parts is still recognised.
    let mut line = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                let at = Instant::now();
                let taken = output.update(|output| {
                    let taken = n.min(MOST_OUTPUT - output.kept);
                    output.kept += taken;
                    output.dropped += (n - taken) as u64;
                    if taken > 0 {
                        output.chunks.push((at, stream, buffer[..taken].to_vec()));
                    }
                    taken
                });
                for part in buffer[..taken].split_inclusive(|byte| *byte == b'\n') {
                    line.extend_from_slice(part);
                    if part.ends_with(b"\n") {
                        transcript.note_at(at, actor, what, printable(line.trim_ascii_end()));
                        line.clear();
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if !line.is_empty() {
        transcript.note(actor, what, printable(&line));
    }
    output.update(|output| output.open -= 1);
}
