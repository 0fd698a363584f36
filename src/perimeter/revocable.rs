//! Bodies that last no longer than the right to read them.

use std::future::pending;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use local_daemon_proto::Credential;
use pin_project_lite::pin_project;
use tokio::sync::watch;

use super::origin::Listed;
use crate::browser::Accepted;

pin_project! {
    /// A body that ends when the origin that reads it is taken off the list (PER-42), the page token that opened it is
    /// revoked (BROW-13), or the credential is replaced (CRED-16): an event stream that began before could go on for days.
    pub struct Revocable<R> {
        #[pin]
        body: R,
        right: Right,
        // Wakes a reader that waits when its right ends. Most bodies are there at once, and none waits for them.
        ended: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    }
}

/// By what an answer may be read; what is `None` cannot end.
#[derive(Clone)]
pub(super) struct Right {
    /// The page of a listed origin that reads it.
    pub(super) reader: Option<Listed>,
    /// The page token that opened it.
    pub(super) token: Option<Accepted>,
    /// The credential that was current when it began, and each later one.
    pub(super) credential: Option<watch::Receiver<Credential>>,
}

impl Right {
    /// Whether it has ended. A channel that is closed means that the daemon is gone.
    fn has_ended(&mut self) -> bool {
        self.credential
            .as_ref()
            .is_some_and(|credential| credential.has_changed().unwrap_or(true))
            || self.token.as_ref().is_some_and(Accepted::is_revoked)
            || self.reader.as_mut().is_some_and(Listed::is_removed)
    }

    async fn ended(self) {
        let Self { reader, token, credential } = self;
        let replaced = async {
            match credential {
                Some(mut credential) => drop(credential.changed().await),
                None => pending().await,
            }
        };
        let revoked = async {
            match token {
                Some(token) => token.revoked().await,
                None => pending().await,
            }
        };
        let removed = async {
            match reader {
                Some(reader) => reader.removed().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = replaced => {}
            () = revoked => {}
            () = removed => {}
        }
    }
}

impl<R> Revocable<R> {
    /// Wraps a body that is read by `right`.
    pub(super) fn new(body: R, right: Right) -> Self {
        Self { body, right, ended: None }
    }
}

impl<R: Body> Body for Revocable<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let this = self.project();
        if this.right.has_ended() {
            return Poll::Ready(None);
        }
        let frame = this.body.poll_frame(context);
        if frame.is_pending() {
            let ended = this.ended.get_or_insert_with(|| Box::pin(this.right.clone().ended()));
            if ended.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
