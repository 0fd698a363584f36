//! Other people's daemons, where they are installed, beside ours and the floor.

pub(crate) fn table() {}
