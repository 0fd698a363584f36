//! What tickets and page tokens are: 256 random bits as text.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// 43 characters of base64url that are zeroed when dropped. `Debug` does not show them.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// 256 bits from the system's random source (BROW-1, BROW-7).
    ///
    /// # Panics
    ///
    /// When the system has no random source.
    pub(super) fn fresh() -> Self {
        let mut bits = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bits).expect("the system has a random source");
        Self(Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*bits)))
    }

    /// Returns the text, for the one answer that hands it over.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Draws the id of a ticket or token: 16 hexadecimal digits that reveal nothing about its text.
pub(super) fn fresh_id() -> Arc<str> {
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).expect("the system has a random source");
    format!("{:016x}", u64::from_ne_bytes(bits)).into()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
