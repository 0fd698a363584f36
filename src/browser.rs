//! Browser paths: how the user lets a web page in.

mod ticket;
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}

pub use self::ticket::{LIFE, MOST, Purpose, Refused, Ticket, Tickets};
