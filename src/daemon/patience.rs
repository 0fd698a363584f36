//! How long a daemon waits for a client that does nothing (PER-33).

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// How long a client may read nothing of an answer, and send nothing of a body.
const BOUND: Duration = Duration::from_secs(30);
/// What a client may have on its way when a connection ends.
const MOST_LEFT: usize = 1024 * 1024;

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
    stream: TcpStream,
    unread: Silence,
}

impl Patient {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, unread: Silence::default() }
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

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        // What has come and was refused unread would reset the connection, and take the refusal with it.
        let (mut left, mut buffer) = (MOST_LEFT, [0; 16 * 1024]);
        while left > 0 {
            match self.stream.try_read(&mut buffer) {
                Ok(read @ 1..) => left = left.saturating_sub(read),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The body of a request; it fails with [`Silent`] when nothing of it comes for 30 s.
pub struct RequestBody {
    body: Incoming,
    silence: Silence,
}

impl RequestBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, silence: Silence::default() }
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
