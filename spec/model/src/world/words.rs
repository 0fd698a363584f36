//! Outcomes in words.

use crate::machine::{Answer, Content, NONE, Record};

pub(super) fn content(content: Content, own: u8) -> String {
    match content {
        Content::Missing => "none".to_owned(),
        Content::Torn => "half of one".to_owned(),
        Content::Record(record) if record.id == own => "its own".to_owned(),
        Content::Record(record) => format!("D{}'s", record.id),
    }
}

pub(super) fn probed(record: Record, answer: Answer) -> String {
    let what = match answer {
        Answer::Refused => "refused".to_owned(),
        Answer::TimedOut => "no answer in time".to_owned(),
        Answer::Foreign => "not proven".to_owned(),
        Answer::NoCredential => "there is no credential".to_owned(),
        Answer::Unreachable => "unreachable".to_owned(),
        Answer::Proven { id, protocol, ready } => {
            let state = if ready { "ready" } else { "draining" };
            let id = if id == record.id { String::new() } else { format!("D{id} ") };
            format!("{id}{state}, acme/{protocol}")
        }
    };
    format!("probes D{}: {what}", record.id)
}

pub(super) fn secret(credential: u8, own: u8) -> String {
    match credential {
        NONE => "none".to_owned(),
        credential if credential == own => "its own".to_owned(),
        credential => format!("D{credential}'s"),
    }
}
