//! `pages`: the web pages that were let in, and their end.

use clap::Subcommand;
use local_daemon::client::Request;
use serde_json::{Value, json};

use super::Context;
use crate::error::Error;
use crate::render::render;

const PATH: &str = "/v1/page-tokens";

#[derive(Subcommand)]
pub(super) enum Pages {
    /// Print the tokens that pages hold: which origin, since when, last used when
    List,
    /// End a page's token, and the streams that it opened
    Revoke {
        /// The id in the list
        id: String,
    },
}

impl Pages {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        let mut connection = context.client.connect()?;
        match self {
            Self::List => {
                let answer = connection.get(PATH)?;
                let pages: Value = answer.json().unwrap_or_default();
                let Some(list) = pages.as_array().filter(|_| answer.status == 200) else {
                    return Err(connection.answer_error(PATH, &answer).into());
                };
                let text = if list.is_empty() {
                    "no page was let in; `locald open` opens one".to_owned()
                } else {
                    render(&pages)
                };
                context.answer(&text, "done", json!({ "pages": pages }))?;
            }
            Self::Revoke { id } => {
                if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
                    return Err(Error::usage(format!("{id:?} is no id; `locald pages list` prints them")));
                }
                let answer = connection.send(Request::delete(&format!("{PATH}/{id}")))?;
                let text = match answer.status {
                    204 => "the page is let in no more, and its streams have ended",
                    404 => "no page has this id",
                    _ => return Err(connection.answer_error(PATH, &answer).into()),
                };
                context.answer(text, "done", json!({"changed": answer.status == 204}))?;
            }
        }
        Ok(0)
    }
}
