//! Protocol gate: chapter 08.

use crate::case::Case;

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[];
