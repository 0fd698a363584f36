//! Chapter 06: why a daemon stands down.

use crate::fault::broken;

/// Why a daemon stands down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// By the daemon of this id, where it is known.
    Displaced(Option<String>),
    RecordRemoved,
    DirectoryGone,
    /// By a shutdown request.
    Requested,
    Signal,
}

impl Reason {
    /// How events call it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Displaced(_) => "displaced",
            Self::RecordRemoved => "record-removed",
            Self::DirectoryGone => "directory-removed",
            Self::Requested => "requested",
            Self::Signal => "signal",
        }
    }

    pub(super) fn exit_status(&self) -> u8 {
        match self {
            Self::Displaced(_) if broken("CONV-12.status-zero") => 0,
            Self::Displaced(_) => 20,
            _ => u8::from(broken("CONV-33.status-one")),
        }
    }

    /// Whether the record is the daemon's to take off.
    pub(super) fn is_stop(&self) -> bool {
        matches!(self, Self::Requested | Self::Signal)
    }
}
