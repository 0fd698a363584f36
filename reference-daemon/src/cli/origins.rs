//! `origins`: which web pages may call the daemon.

use clap::Subcommand;
use local_daemon::perimeter::Origin;
use serde_json::json;

use super::port::is_ambiguous;
use super::status::LOOK;
use super::{Context, note};
use crate::allowlist;
use crate::error::Error;
use crate::render::printable;

const NOTES: &str = "\
Examples:
  locald origins add https://app.example
  locald origins add http://127.0.0.1:5173
  locald origins remove https://app.example

The list stands in config.toml in the state directory, which may be edited by hand as well. A daemon that runs
follows it at once; the streams of an origin that is removed end.

http://127.0.0.1:5173 names one address. For http://localhost:5173 a browser may connect to [::1] first, where any user
of this machine may listen.";

#[derive(Subcommand)]
#[command(after_help = NOTES)]
pub(super) enum Origins {
    /// Let the pages of a web origin call the daemon
    Add {
        /// Exactly as browsers write it, such as `https://app.example`, with the port where it is not the scheme's own
        #[arg(allow_hyphen_values = true)]
        origin: String,
    },
    /// Let them call no more
    Remove {
        /// The entry as it stands in the list
        #[arg(allow_hyphen_values = true)]
        origin: String,
    },
    /// Print the list
    List,
}

impl Origins {
    /// PER-41: when it returns, the list on disk is the new one, which the daemon looks at before it judges a request.
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        let directory = context.directory();
        let (text, changed) = match self {
            Self::Add { origin } => {
                let parsed = origin
                    .parse::<Origin>()
                    .map_err(|error| Error::usage(format!("{origin:?} is not an origin: {error}")))?;
                if is_ambiguous(&parsed) {
                    note(&format!(
                        "locald: for {origin} a browser may connect to [::1] first, where any user of this machine may listen; \
                         prefer 127.0.0.1, which is one address"
                    ));
                }
                if allowlist::add(directory, &parsed)? {
                    (format!("{origin} may call from now on"), true)
                } else {
                    (format!("{origin} is on the list already"), false)
                }
            }
            Self::Remove { origin } if allowlist::remove(directory, origin)? => {
                have_it_noticed(context);
                (format!("{origin} may not call any more"), true)
            }
            Self::Remove { origin } => (format!("{origin} is not on the list"), false),
            Self::List => (String::new(), false),
        };
        let origins = allowlist::listed(directory)?;
        let (text, json) = match self {
            Self::List if origins.is_empty() => (
                "no web origin may call; add one with `locald origins add https://app.example`".to_owned(),
                json!({ "origins": origins }),
            ),
            Self::List => (lines(&origins), json!({ "origins": origins })),
            _ => (text, json!({"origins": origins, "changed": changed})),
        };
        context.answer(&text, "done", json)?;
        Ok(0)
    }
}

/// Renders one entry per line, whatever it contains.
fn lines(origins: &[String]) -> String {
    origins.iter().map(|origin| printable(origin)).collect::<Vec<_>>().join("\n")
}

/// BROW-14: has a daemon that runs look at the list, before the origin may be added again and the removal go unseen.
fn have_it_noticed(context: &Context) {
    // Where none answers, there are no tokens to revoke.
    if let Ok(mut connection) = context.client.clone().deadline(LOOK).connect() {
        let _ = connection.get("/v1/status");
    }
}
