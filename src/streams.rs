//! Event streams: one bounded log that is shared, and a cursor for each subscriber. A slow one reads on where it was,
//! or gets a gap; none slows another.
//!
//! A [`Hub`] is the log of one epoch. A route makes a [`Selection`] of its request, [subscribes](Hub::subscribe), and
//! gives back [`Subscriber::into_response`]. `Hub` knows no runtime and reads no clock; [`EventBody`] has both. A log
//! is in memory, or [kept in a file](crate::daemon::Handle::open_events) and goes on after a restart.

mod body;
mod hub;
mod journal;
mod log;
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}

use local_daemon_proto::ClaimId;
use local_daemon_proto::claim::Reason;
pub use local_daemon_proto::events::{EventId, ParseEventIdError};
use local_daemon_proto::registration::RecordRead;

use crate::state_directory::StateDir;

pub use self::body::{EventBody, HEARTBEAT_INTERVAL};
pub use self::hub::{Hub, Next, Selection, SubscribeError, Subscriber};
pub use self::log::Limits;

/// The last event of every stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum End {
    /// Another daemon has taken over (STR-28).
    Superseded {
        /// Who holds the record now, where that is known.
        successor: Option<ClaimId>,
    },
    /// This daemon stops (STR-29).
    Shutdown,
}

impl End {
    /// Returns the end of a daemon that stands down for `reason`.
    pub fn of(reason: Reason, state_dir: &StateDir) -> Self {
        if reason != Reason::Displaced {
            return Self::Shutdown;
        }
        let successor = match state_dir.read_record().0 {
            RecordRead::Record(record) => Some(record.id),
            _ => None,
        };
        Self::Superseded { successor }
    }
}
