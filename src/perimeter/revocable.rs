//! Bodies that last no longer than the right to read them.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::origin::{Listed, Origins};
use crate::browser::Accepted;

pin_project! {
    /// A body that ends when the origin that reads it is taken off the list (PER-42), or the page token that opened it is
    /// revoked (BROW-13): an event stream began before, and would run on for days.
    pub struct Revocable<R> {
        #[pin]
        body: R,
        revoked: Vec<Revoked>,
    }
}

/// Ends when the right to read has ended.
type Revoked = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<R> Revocable<R> {
    /// A body that `reader` reads, where it is read by a page of a listed origin, with `token`, where it has one.
    pub(super) fn new(body: R, reader: Option<Listed>, token: Option<Accepted>) -> Self {
        let removed = reader.map(|Listed { origin, mut list }| -> Revoked {
            Box::pin(async move {
                let is_off = |list: &Origins| !origin.to_str().is_ok_and(|origin| list.contains(origin));
                // Without a list there is no daemon any more either.
                let _ = list.wait_for(is_off).await;
            })
        });
        let revoked = token.map(|token| -> Revoked { Box::pin(token.revoked()) });
        Self { body, revoked: removed.into_iter().chain(revoked).collect() }
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
