//! The log: structured, to standard error, and without secrets whatever a caller wrote into it.

use std::borrow::Cow;
use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use local_daemon::StateDir;
use tracing::level_filters::LevelFilter;

use crate::error::Error;

/// The variable that sets the level: `off`, `error`, `warn`, `info` (the default), `debug` or `trace`.
const LEVEL: &str = "LOCALD_LOG";
/// The variable that sets the format: `text` or `json`. Unless set, a terminal gets text and a file JSON lines.
const FORMAT: &str = "LOCALD_LOG_FORMAT";

/// What the log looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends the events of this process to standard error. If that is the log of a detached daemon, the log is rotated when it is
/// full (LIFE-38).
pub(crate) fn start(directory: &StateDir) -> Result<Format, Error> {
    let level = match env::var(LEVEL) {
        Ok(level) if !level.is_empty() => level.parse::<LevelFilter>().map_err(|_| {
            Error::usage(format!("{LEVEL}={level}: expected off, error, warn, info, debug or trace"))
        })?,
        _ => LevelFilter::INFO,
    };
    let format = match env::var(FORMAT).unwrap_or_default().as_str() {
        "text" => Format::Text,
        "" if io::stderr().is_terminal() => Format::Text,
        "" | "json" => Format::Json,
        other => return Err(Error::usage(format!("{FORMAT}={other}: expected text or json"))),
    };
    // A log whose reader has gone must not end the daemon, and the subscriber's own complaint would panic there.
    let log = Arc::new(Log { directory: directory.clone(), written: AtomicUsize::new(0) });
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(move || Redacting(log.clone()));
    match format {
        Format::Json => builder.json().flatten_event(true).init(),
        Format::Text => builder.init(),
    }
    Ok(format)
}

/// Standard error, and the state directory whose log it may be.
struct Log {
    directory: StateDir,
    /// How many bytes were written since the log was last checked.
    written: AtomicUsize,
}

impl Log {
    /// How many bytes are written before the log is checked again.
    const CHECK_INTERVAL_BYTES: usize = 64 * 1024;

    fn write(&self, event: &str) -> io::Result<()> {
        io::stderr().write_all(event.as_bytes())?;
        if self.written.fetch_add(event.len(), Relaxed) >= Self::CHECK_INTERVAL_BYTES {
            self.written.store(0, Relaxed);
            // The daemon also rotates it every few seconds, and reports why that fails.
            let _ = self.directory.rotate_log();
        }
        Ok(())
    }
}

/// Writes whole events with their secrets blotted out.
struct Redacting(Arc<Log>);

impl Write for Redacting {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // The subscriber hands over one event at a time.
        self.0.write(&redact(&String::from_utf8_lossy(event)))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const BLOT: &str = "[redacted]";
/// The length of 256 bits in base64url: credentials, tickets, page tokens, proofs.
const SECRET: usize = 43;

/// Redacts what follows `token=` (PER-27), and each run of base64url characters, plus and percent signs that is long enough to
/// hold a secret, whether plain, percent-encoded or part of a longer word (CRED-8).
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '%');
    let mut clean = String::new();
    let mut kept = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let run = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(run);
        let value = after.strip_prefix('=').filter(|_| word.ends_with("token"));
        let is_secret = run >= SECRET;
        if value.is_none() && !is_secret {
            at += run + after.chars().next().map_or(0, char::len_utf8);
            continue;
        }
        let start = if is_secret { at } else { at + run + 1 };
        let ends = |c: char| c == '&' || c == '"' || c.is_whitespace();
        let end = at + run + value.map_or(0, |value| 1 + value.find(ends).unwrap_or(value.len()));
        clean.push_str(&text[kept..start]);
        clean.push_str(BLOT);
        (kept, at) = (end, end);
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    clean.push_str(&text[kept..]);
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::redact;

    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    #[test]
    fn secrets_are_blotted_out_wherever_they_stand() {
        for (text, clean) in [
            (format!("bearer=\"Bearer {SECRET}\" end"), "bearer=\"Bearer [redacted]\" end"),
            (SECRET.to_owned(), "[redacted]"),
            (format!("é{SECRET}é{SECRET}"), "é[redacted]é[redacted]"),
            ("GET /v1/events?token=short&x=1".to_owned(), "GET /v1/events?token=[redacted]&x=1"),
            ("{\"path\":\"/e?page_token=a%20b\"}".to_owned(), "{\"path\":\"/e?page_token=[redacted]\"}"),
            (format!("token={SECRET}"), "token=[redacted]"),
            (format!("/v1/x%2F{SECRET} /x_{SECRET}.html"), "/v1/[redacted] /[redacted].html"),
            (format!("{SECRET}_token=short&"), "[redacted]&"),
            (SECRET.replace('F', "+"), "[redacted]"),
        ] {
            assert_eq!(redact(&text), clean);
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for text in [
            "id=5f0c2a9be17d4836a1c04f9d2e6b8370 pid=4242".to_owned(),
            "tokens 3, token: none".to_owned(),
            SECRET[1..].to_owned(),
            "registration.json.tmp-5f0c2a9be17d4836a1c04f9d2e6b8370".to_owned(),
            "é=ü".to_owned(),
            String::new(),
        ] {
            assert_eq!(redact(&text), text);
        }
    }

    fn decoded(text: &str) -> String {
        let mut parts = text.split('%');
        let mut decoded = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let code = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii);
            match code {
                Some(code) => decoded.extend([char::from(code).to_string().as_str(), &part[2..]]),
                None => decoded.extend(["%", part]),
            }
        }
        if decoded == text { decoded } else { self::decoded(&decoded) }
    }

    proptest! {
        #[test]
        fn no_secret_is_left_whatever_surrounds_or_encodes_it(
            secret in "[A-Za-z0-9_-]{43}",
            before in "(.*|[a-z%2F]*|token=|.*[?&]token=.*)",
            after in "(.*|[a-z%2F]*)",
            escapes in prop::collection::vec(0..5, 43),
        ) {
            let encoded: String = secret
                .bytes()
                .zip(escapes)
                .map(|(byte, escape)| match escape {
                    0 => format!("%{byte:02X}"),
                    1 => format!("%{byte:02x}"),
                    2 => format!("%25{byte:02X}"),
                    _ => char::from(byte).to_string(),
                })
                .collect();
            for text in [format!("{before}{encoded}{after}"), format!("{before}{secret}{after}")] {
                let clean = redact(&text);
                prop_assert!(matches!(clean, Cow::Owned(_)), "{text}");
                prop_assert!(!decoded(&clean).contains(&secret), "{clean}");
                prop_assert!(!clean.contains(&encoded), "{clean}");
            }
        }
    }
}
