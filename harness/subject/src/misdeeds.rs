//! What the subject does under a fault and never else, where that takes more than a word.

pub(super) mod browser;
pub(super) mod client;
pub(super) mod perimeter;
