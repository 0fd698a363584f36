//! The words of a requirement: its sentences, its key words, its notes.

use crate::catalogue::Level;

/// `Why:` and `Untestable:` begin a note; lines that begin with neither go on with the one before.
pub(super) fn notes(quote: &str) -> (Option<String>, Option<String>) {
    let (mut why, mut untestable) = (None, None);
    let mut current: &mut Option<String> = &mut None;
    for line in quote.lines() {
        let line = line.trim();
        let begun = if let Some(rest) = line.strip_prefix("Why:") {
            current = &mut why;
            rest
        } else if let Some(rest) = line.strip_prefix("Untestable:") {
            current = &mut untestable;
            rest
        } else {
            if let Some(note) = current {
                note.push(' ');
                note.push_str(line);
            }
            continue;
        };
        *current = Some(begun.trim().to_owned());
    }
    let tidy = |note: Option<String>| note.map(|note| one_line(&note)).filter(|note| !note.is_empty());
    (tidy(why), tidy(untestable))
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn first_level(prose: &str) -> Option<Level> {
    key_words(prose).next()
}

/// The key words of a text, in order.
pub(super) fn key_words(prose: &str) -> impl Iterator<Item = Level> {
    let words: Vec<&str> =
        prose.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    (0..words.len()).filter_map(move |at| match (words[at], words.get(at + 1).copied()) {
        ("MUST", Some("NOT")) => Some(Level::MustNot),
        ("MUST", _) => Some(Level::Must),
        ("SHOULD", Some("NOT")) => Some(Level::ShouldNot),
        ("SHOULD", _) => Some(Level::Should),
        ("MAY", _) => Some(Level::May),
        _ => None,
    })
}

/// Parts a text after `.`, `!` or `?` where white space and then a capital follow.
pub(super) fn sentences(prose: &str) -> impl Iterator<Item = &str> {
    let mut starts = vec![0];
    for (at, c) in prose.char_indices() {
        let rest = &prose[at + c.len_utf8()..];
        let next = rest.trim_start();
        if matches!(c, '.' | '!' | '?') && next.len() < rest.len() && next.starts_with(char::is_uppercase) {
            starts.push(at + c.len_utf8());
        }
    }
    starts.push(prose.len());
    (1..starts.len()).map(move |i| &prose[starts[i - 1]..starts[i]])
}
