//! `run`: the daemon in the foreground.

use std::env;
use std::time::Duration;

use clap::{Args, ValueEnum};
use local_daemon::perimeter::Origin;
use miette::Diagnostic;

use super::Context;
use super::launch::runtime;
use crate::daemon::{self, Mode, Options};
use crate::error::Error;
use crate::log;

/// The variable that says how long a daemon of mode `auto` may be idle.
const IDLE_TIMEOUT: &str = "LOCALD_IDLE_TIMEOUT_SECONDS";
/// Unless it is set (LIFE-3).
const DEFAULT_IDLE: Duration = Duration::from_mins(5);

const NOTES: &str = "\
Examples:
  locald run --state-dir ./state
  LOCALD_LOG=debug locald run --allow-origin http://127.0.0.1:5173

Exit statuses: 0 stopped, its record removed, or yielded; 20 displaced by another daemon, which a
supervisor must not answer with a restart; 2 usage; 15 state directory or credential refused;
17 another daemon's record is there and that daemon cannot be asked (--yield); 1 anything else.

--mode auto leaves when nobody has used it for 300 seconds (LOCALD_IDLE_TIMEOUT_SECONDS). The log goes to standard error, as text on a terminal and JSON lines elsewhere.";

#[derive(Args)]
#[command(after_help = NOTES)]
pub(super) struct Run {
    /// Leave the place to a ready and compatible daemon that is there already
    #[arg(long = "yield")]
    yields: bool,

    /// With --yield: start also over the record of a daemon that cannot be asked
    #[arg(long, requires = "yields")]
    replace: bool,

    /// A web origin whose pages may call; may be given more than once
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    origins: Vec<Origin>,

    /// How long it lives
    #[arg(long, value_enum, default_value_t = Life::Manual)]
    mode: Life,
}

#[derive(Clone, Copy, ValueEnum)]
enum Life {
    Manual,
    Auto,
}

impl Run {
    pub(super) fn run(self, context: &Context) -> Result<u8, Error> {
        let options = self.options(context)?;
        let format = log::start(context.directory())?;
        let reason = runtime()?.block_on(async { daemon::start(options).await?.serve().await });
        match reason.map_err(Error::from) {
            // CONV-12, CONV-33
            Ok(reason) => Ok(u8::try_from(reason.exit_status()).unwrap_or(1)),
            // A log of JSON lines stays one.
            Err(error) if format == log::Format::Json && !context.json => {
                let help = error.help().map(|help| help.to_string());
                tracing::error!(%error, outcome = error.outcome(), help, "the daemon could not run");
                Ok(error.exit_code())
            }
            Err(error) => Err(error),
        }
    }

    fn options(self, context: &Context) -> Result<Options, Error> {
        let idle_timeout = idle_timeout()?;
        Ok(Options {
            state_dir: context.directory().path().to_owned(),
            protocol: context.protocol.clone(),
            yields: self.yields,
            replaces: self.replace,
            origins: self.origins,
            mode: match self.mode {
                Life::Manual => Mode::Manual,
                Life::Auto => Mode::Auto(idle_timeout),
            },
        })
    }
}

/// The idle time-out, which has to make sense even where it is not needed (LIFE-4).
fn idle_timeout() -> Result<Duration, Error> {
    let Some(text) = env::var_os(IDLE_TIMEOUT).filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT_IDLE);
    };
    let seconds = text.to_str().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match seconds.and_then(|text| text.parse().ok()) {
        Some(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::usage(format!(
            "{IDLE_TIMEOUT}={}: expected a whole number of seconds from 1 to 31536000",
            text.display()
        ))),
    }
}
