//! What happened in a case, in order of time, with every registered secret replaced before it is kept.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};

use crate::proof;
use crate::wait::lock;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the transcript began.
    pub at_ms: u64,
    /// Who did it or saw it: `daemon`, `suite`, `squatter`, `files` …
    pub actor: String,
    /// What happened, in a word or two: `exit`, `request`, `created` …
    pub what: String,
    /// The rest, redacted and cut to [`LONGEST_DETAIL`] bytes.
    pub detail: String,
}

/// Details longer than this many bytes are cut, after redaction.
pub const LONGEST_DETAIL: usize = 4096;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

#[derive(Debug)]
struct Inner {
    began: Instant,
    events: Vec<(Instant, Event)>,
    secrets: Vec<String>,
    blot: Blot,
}

/// A handle on a case's transcript; clones write to the same one.
#[derive(Debug, Clone)]
pub struct Transcript(Arc<Mutex<Inner>>);

impl Default for Transcript {
    fn default() -> Self {
        Self::new()
    }
}

impl Transcript {
    /// An empty transcript that begins now.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            began: Instant::now(),
            events: Vec::new(),
            secrets: Vec::new(),
            blot: Blot::default(),
        })))
    }

    /// When the transcript began.
    pub fn began(&self) -> Instant {
        lock(&self.0).began
    }

    /// From now on, and in what was already noted, `secret` is `[redacted]` as text, base64, base64url and
    /// hexadecimal. Secrets shorter than 8 bytes are not taken: they would eat ordinary words.
    pub fn hide(&self, secret: &[u8]) {
        let forms = proof::forms(secret).into_iter().filter_map(|form| String::from_utf8(form).ok());
        let forms = forms.chain([printable(secret)]);
        let mut inner = lock(&self.0);
        let known = inner.secrets.len();
        for form in forms.filter(|form| form.len() >= 8) {
            if !inner.secrets.contains(&form) {
                inner.secrets.push(form);
            }
        }
        if inner.secrets.len() == known {
            return;
        }
        let new = Blot::new(&inner.secrets[known..]);
        for (_, event) in &mut inner.events {
            event.detail = new.over(&event.detail).into_owned();
            event.what = new.over(&event.what).into_owned();
        }
        inner.blot = Blot::new(&inner.secrets);
    }

    /// Notes something that happens now.
    pub fn note(&self, actor: &str, what: &str, detail: impl AsRef<str>) {
        self.note_at(Instant::now(), actor, what, detail);
    }

    /// Notes something that was seen at another time.
    pub fn note_at(&self, at: Instant, actor: &str, what: &str, detail: impl AsRef<str>) {
        let mut inner = lock(&self.0);
        let at_ms = at.saturating_duration_since(inner.began).as_millis().try_into().unwrap_or(u64::MAX);
        let what = inner.blot.over(what).into_owned();
        let mut detail = inner.blot.over(detail.as_ref()).into_owned();
        if detail.len() > LONGEST_DETAIL {
            let whole = detail.len();
            detail.truncate(detail.floor_char_boundary(LONGEST_DETAIL));
            detail = format!("{detail}… ({whole} bytes)");
        }
        inner.events.push((at, Event { at_ms, actor: actor.to_owned(), what, detail }));
    }

    /// Everything noted so far, in order of time.
    pub fn events(&self) -> Vec<Event> {
        let mut events = lock(&self.0).events.clone();
        events.sort_by_key(|(at, _)| *at);
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// `text` without the registered secrets; for observed sides and errors that do not pass through a note.
    pub fn redact(&self, text: &str) -> String {
        lock(&self.0).blot.over(text).into_owned()
    }
}

/// Finds all forms of all secrets in one pass: a case may launch hundreds of daemons.
#[derive(Debug, Default)]
struct Blot(Option<AhoCorasick>);

impl Blot {
    fn new(secrets: &[String]) -> Self {
        // Longest first, so that no form is cut by a shorter one that is a part of it.
        let searcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(secrets);
        Self(Some(searcher.expect("a few thousand short patterns are within the searcher's bounds")))
    }

    fn over<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.0 {
            Some(searcher) if searcher.is_match(text) => {
                let mut clean = String::with_capacity(text.len());
                searcher.replace_all_with(text, &mut clean, |_, _, clean| {
                    clean.push_str(REDACTED);
                    true
                });
                Cow::Owned(clean)
            }
            _ => Cow::Borrowed(text),
        }
    }
}

/// Bytes as one printable line: valid UTF-8 stays, control characters and the rest are escaped.
pub fn printable(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
        }
        for byte in chunk.invalid() {
            line.extend(['\\', 'x']);
            line += &proof::hex(&[*byte]);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::Credential;

    #[test]
    fn a_secret_is_replaced_in_every_form_before_and_after_it_is_known() {
        let transcript = Transcript::new();
        let credential = Credential::from_bytes([0xfb; 32]);
        let text = credential.text();
        transcript.note("suite", "early", format!("sent {text}"));
        transcript.hide(credential.bytes());
        for form in proof::forms(credential.bytes()).iter().filter_map(|form| std::str::from_utf8(form).ok())
        {
            transcript.note("suite", "late", format!("a{form}b"));
        }
        let events = transcript.events();
        assert!(events.len() > 4, "{events:?}");
        for event in &events {
            assert!(event.detail.contains(REDACTED), "{event:?}");
            assert!(!event.detail.contains(&text));
        }
    }

    #[test]
    fn a_cut_never_leaves_half_a_secret() {
        let transcript = Transcript::new();
        let credential = Credential::random();
        transcript.hide(credential.bytes());
        let text = credential.text();
        transcript.note("suite", "long", format!("{}{text}", "x".repeat(LONGEST_DETAIL - 20)));
        let detail = &transcript.events()[0].detail;
        assert!(!detail.contains(&text[..12]), "{detail}");
    }

    #[test]
    fn events_are_ordered_by_their_time() {
        let transcript = Transcript::new();
        let early = Instant::now();
        transcript.note("a", "second", "");
        transcript.note_at(early, "b", "first", "");
        let order: Vec<String> = transcript.events().into_iter().map(|event| event.what).collect();
        assert_eq!(order, ["first", "second"]);
    }

    #[test]
    fn printable_keeps_text_and_escapes_the_rest() {
        assert_eq!(printable("a é\r\n\\".as_bytes()), "a é\\r\\n\\\\");
        assert_eq!(printable(b"\xff\x00"), "\\xff\\u{0}");
    }
}
