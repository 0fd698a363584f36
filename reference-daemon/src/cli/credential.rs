//! `credential`: the secret that clients share with the daemon.

use clap::Subcommand;
use local_daemon::state_directory::CREDENTIAL;
use serde_json::json;

use super::Context;
use crate::error::Error;

#[derive(Subcommand)]
pub(super) enum Credential {
    /// Print the path of the file that holds it
    Path,
    /// Print the secret itself: whoever has it can do everything that you can do with the daemon
    Show,
    /// Replace it, and end everything that was opened with the old one; clients read the new one by themselves
    Rotate,
}

impl Credential {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        let directory = context.directory();
        let path = directory.file(CREDENTIAL);
        let shown = path.display().to_string();
        match self {
            Self::Path => context.answer(&shown, "done", json!({ "path": shown }))?,
            Self::Show => {
                directory.check()?;
                let credential = directory.read_credential()?.ok_or(Error::NoCredential(path))?;
                let text = credential.expose();
                context.answer(&text, "done", json!({"credential": text.as_str()}))?;
            }
            Self::Rotate => {
                directory.create()?;
                directory.rotate_credential()?;
                let text = format!(
                    "{shown}: replaced. A running daemon refuses the old one, and ends the tickets, pages and event streams \
                     that were opened with it. Clients read the new one by themselves; open pages again with `locald open`."
                );
                context.answer(&text, "done", json!({ "path": shown }))?;
            }
        }
        Ok(0)
    }
}
