//! Bodies that last no longer than the right to read them.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};

use super::{Listed, Origins};

/// A body that ends when the origin that reads it is taken off the list (PER-42): an event stream began before, and
/// would run on for days.
pub struct Revocable<R> {
    body: Pin<Box<R>>,
    revoked: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<R> Revocable<R> {
    /// A body that `reader` reads, where it is read by a page of a listed origin.
    pub(super) fn new(body: R, reader: Option<Listed>) -> Self {
        let revoked = reader.map(|Listed { origin, mut list }| async move {
            let is_off = |list: &Origins| !origin.to_str().is_ok_and(|origin| list.contains(origin));
            // Without a list there is no daemon any more either.
            let _ = list.wait_for(is_off).await;
        });
        Self {
            body: Box::pin(body),
            revoked: revoked.map(|revoked| Box::pin(revoked) as _),
        }
    }
}

impl<R: Body> Body for Revocable<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        if let Some(revoked) = &mut self.revoked
            && revoked.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(None);
        }
        self.body.as_mut().poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
