//! The log: structured, to standard error, and without secrets whatever a caller wrote into it.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use local_daemon::StateDir;
use local_daemon::text::redact;
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
