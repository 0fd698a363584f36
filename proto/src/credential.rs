//! The credential: the secret that every client of one user's daemon holds. No I/O.

use alloc::string::String;
use core::array;
use core::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The length of a credential's text, in bytes.
const TEXT_LEN: usize = 43;
/// How many words of 8 bytes hold such a text.
const TEXT_WORDS: usize = TEXT_LEN.div_ceil(8);

/// 32 random bytes that print as `[redacted]` and are zeroed when dropped (CRED-8, CRED-9,
/// CRED-10). It goes into no command's arguments or environment (CRED-7): nothing but a header takes it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Credential {
    bytes: [u8; 32],
    /// Its text, which every bearer is compared with.
    text: [u64; TEXT_WORDS],
}

impl Credential {
    /// Returns a credential of the given random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut text = Zeroizing::new([0; TEXT_LEN]);
        URL_SAFE_NO_PAD
            .encode_slice(bytes, &mut *text)
            .expect("32 bytes are 43 characters of base64url");
        Self { bytes, text: words(&text) }
    }

    /// Parses a credential's text: 43 characters of base64url, with or without one final newline (CRED-1, CRED-6).
    ///
    /// # Errors
    /// [`ParseCredentialError`], which repeats nothing of the text.
    pub fn parse(text: &[u8]) -> Result<Self, ParseCredentialError> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        decode_32(text).map(|bytes| Self::from_bytes(*bytes)).ok_or(ParseCredentialError)
    }

    /// Returns the 43 characters of the file and in a bearer header. The caller keeps them out of every log.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.bytes))
    }

    /// The 32 bytes, the key of the proof.
    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Returns whether `text` is this credential's text, compared in constant time: only its length, which is public, ends it
    /// early (PER-22).
    pub fn matches(&self, text: &[u8]) -> bool {
        let Ok(text) = <&[u8; TEXT_LEN]>::try_from(text) else {
            return false;
        };
        self.text.ct_eq(&words(text)).into()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The text as words, which take fewer steps to compare than bytes.
fn words(text: &[u8; TEXT_LEN]) -> [u64; TEXT_WORDS] {
    let (whole, rest) = text.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    array::from_fn(|at| u64::from_ne_bytes(*whole.get(at).unwrap_or(&last)))
}

/// The 32 bytes of a canonical, unpadded base64url text.
pub(crate) fn decode_32(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
}

/// A text that is not a credential.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it is not 43 characters of base64url and a newline")]
pub struct ParseCredentialError;
