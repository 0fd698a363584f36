//! Browser paths: how the user lets a web page in.
//!
//! A page gets a page token, and never the credential; it gets one for a ticket, which the user's own command asked for.
//! [`Guard::page_tokens`](crate::perimeter::Guard::page_tokens) makes the guard take the tokens and open the routes at
//! which a browser begins. The product has those routes, which issue and redeem the [`Tickets`] of its
//! [`Handle`](crate::daemon::Handle::tickets), opens its page at the [page host](crate::daemon::Handle::page_host), and answers
//! its pages by [`html`].

mod answer;
mod host;
mod secret;
mod ticket;
mod token;
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}

pub use self::answer::{CLEAR_SITE_DATA, html};
pub(crate) use self::answer::{end_of_worker, former_page};
pub use self::host::{Host, PageHost};
pub use self::secret::Secret;
pub use self::ticket::{
    IssuedTicket, MAX_TICKETS, Purpose, RedeemError, TICKET_LIFETIME, TicketState, Tickets,
};
pub(crate) use self::token::Accepted;
pub use self::token::{PageToken, PageTokens};
