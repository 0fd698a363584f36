//! How long a daemon waits for a client that does nothing (PER-33), and for one that has not read its answer yet (PER-49).

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

/// How long a client may read nothing of an answer, and send nothing of a body.
const BOUND: Duration = Duration::from_secs(30);
/// How long a connection that the daemon has ended is read on, so that its client reads the answer (PER-49).
const LINGER: Duration = Duration::from_secs(2);
/// How much of a body that is never read has come with its head, in bytes: `hyper` discards it, and the connection goes on.
const MAX_DRAINED: u64 = 4 * 1024;
/// The most bytes of several slices that are copied to be written at once.
const MAX_JOINED: usize = 512;
/// The most that is discarded of a stranger meanwhile, in bytes.
const MAX_DISCARDED_OF_STRANGER: usize = 1024 * 1024;
/// The most that is discarded of a client that has authenticated, in bytes.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;

/// Time that runs while nothing happens.
#[derive(Default)]
struct Silence(Option<Pin<Box<Sleep>>>);

impl Silence {
    /// `outcome`, or that it has been pending for too long.
    fn bounded<T>(&mut self, context: &mut Context<'_>, outcome: Poll<T>) -> Poll<Result<T, Silent>> {
        if let Poll::Ready(outcome) = outcome {
            self.0 = None;
            return Poll::Ready(Ok(outcome));
        }
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep(BOUND)));
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(Err(Silent))
    }
}

/// A client did nothing for too long.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing came for 30 s")
    }
}

impl Error for Silent {}

/// A connection that breaks when its client takes nothing of what is written.
pub(super) struct Patient {
    /// `None` once this is dropped.
    stream: Option<TcpStream>,
    unread: Silence,
    /// Takes the stream if only its sending half was shut down.
    half_closed: Option<oneshot::Sender<TcpStream>>,
    is_shut_down: bool,
}

impl Patient {
    /// Returns the connection, and a receiver of its stream, which has it once the connection was shut down and dropped: with
    /// what serves it, its buffers have been given back by then.
    pub(super) fn new(stream: TcpStream) -> (Self, oneshot::Receiver<TcpStream>) {
        let (sender, receiver) = oneshot::channel();
        let patient = Self {
            stream: Some(stream),
            unread: Silence::default(),
            half_closed: Some(sender),
            is_shut_down: false,
        };
        (patient, receiver)
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("the stream is there until the drop"))
    }

    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.unread.bounded(context, written));
        Poll::Ready(written.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())))
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        if let (true, Some(stream), Some(sender)) =
            (self.is_shut_down, self.stream.take(), self.half_closed.take())
        {
            // An error means that no one waits for it.
            let _ = sender.send(stream);
        }
    }
}

/// Discards what a client still sends on a connection whose sending half is shut down. The kernel resets a connection that is
/// closed while data is on its way, and the client loses the answer (PER-49).
pub(super) async fn linger(stream: &TcpStream, has_authenticated: bool) {
    let mut left = if has_authenticated { MAX_DISCARDED } else { MAX_DISCARDED_OF_STRANGER };
    let ends = Instant::now() + LINGER;
    while left > 0 && Instant::now() < ends {
        let Ok(Ok(())) = timeout_at(ends, stream.readable()).await else {
            return;
        };
        match discard(stream) {
            Ok(discarded @ 1..) => left = left.saturating_sub(discarded),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The client has ended the connection too, or has gone.
            Ok(0) | Err(_) => return,
        }
    }
}

/// Discards what has already come on such a connection: there is no time to wait for the rest.
pub(super) fn discard_arrived(stream: &TcpStream) {
    let mut left = MAX_DISCARDED_OF_STRANGER;
    while let (1.., Ok(discarded @ 1..)) = (left, discard(stream)) {
        left = left.saturating_sub(discarded);
    }
}

/// Returns how much was discarded. The buffer is on the stack, so that a connection that lingers holds none.
fn discard(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; 16 * 1024])
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = if length <= MAX_JOINED {
            // One `send` takes less time than a `writev`, even with the copy.
            let mut joined = [0; MAX_JOINED];
            let mut rest = &mut joined[..];
            for slice in slices {
                let (start, end) = rest.split_at_mut(slice.len());
                start.copy_from_slice(slice);
                rest = end;
            }
            self.stream().poll_write(context, &joined[..length])
        } else {
            self.stream().poll_write_vectored(context, slices)
        };
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(TcpStream::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream().poll_shutdown(context))?;
        self.is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// The body of a request; it fails with [`Silent`] when nothing of it comes for 30 s.
pub struct RequestBody {
    body: Incoming,
    silence: Silence,
    is_left: Arc<AtomicBool>,
}

impl RequestBody {
    /// Wraps a body. `is_left` is set if it is dropped with so much unread that the connection has to end.
    pub(super) fn new(body: Incoming, is_left: Arc<AtomicBool>) -> Self {
        Self { body, silence: Silence::default(), is_left }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let rest = self.body.size_hint().upper();
        if !self.body.is_end_stream() && rest.is_none_or(|rest| rest > MAX_DRAINED) {
            self.is_left.store(true, Ordering::Release);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        Poll::Ready(match ready!(self.silence.bounded(context, frame)) {
            Ok(frame) => frame.map(|frame| frame.map_err(Into::into)),
            Err(silent) => Some(Err(silent.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
