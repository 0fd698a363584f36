//! Bodies that last no longer than the right to read them.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use local_daemon_proto::Credential;
use pin_project_lite::pin_project;
use tokio::sync::watch;

use super::origin::{Listed, Origins};
use crate::browser::Accepted;

pin_project! {
    /// A body that ends when the origin that reads it is taken off the list (PER-42), the page token that opened it is
    /// revoked (BROW-13), or the credential is replaced (CRED-16): an event stream that began before could go on for days.
    pub struct Revocable<R> {
        #[pin]
        body: R,
        revoked: Vec<Revoked>,
    }
}

/// Ends when the right to read has ended.
type Revoked = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<R> Revocable<R> {
    /// Wraps the body of an answer to `reader` if that is a page of a listed origin, opened with `token` if it has one, while
    /// `credential` was current.
    pub(super) fn new(
        body: R,
        reader: Option<Listed>,
        token: Option<Accepted>,
        credential: Option<watch::Receiver<Credential>>,
    ) -> Self {
        let removed = reader.map(|Listed { origin, mut list }| -> Revoked {
            Box::pin(async move {
                let is_off = |list: &Origins| !origin.to_str().is_ok_and(|origin| list.contains(origin));
                // Without a list there is no daemon any more either.
                let _ = list.wait_for(is_off).await;
            })
        });
        let revoked = token.map(|token| -> Revoked { Box::pin(token.revoked()) });
        let replaced = credential.map(|mut credential| -> Revoked {
            Box::pin(async move {
                // An error means that the daemon is gone.
                let _ = credential.changed().await;
            })
        });
        Self {
            body,
            revoked: removed.into_iter().chain(revoked).chain(replaced).collect(),
        }
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
        let mut revoked = this.revoked.iter_mut();
        if revoked.any(|revoked| revoked.as_mut().poll(context).is_ready()) {
            return Poll::Ready(None);
        }
        this.body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
