//! The blocks of a chapter: its title, its head, and the list items that state requirements.

use std::ops::Range;

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use super::prose::one_line;
use crate::catalogue::Planned;

/// A requirement's list item as it is written, before its words are understood.
#[derive(Default)]
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) id: Option<String>,
    pub(super) codes: Vec<String>,
    pub(super) text: String,
    /// The text without code, where key words are looked for.
    pub(super) prose: String,
    pub(super) quote: String,
}

impl Item {
    /// The id comes first; what precedes it would make this an ordinary item.
    fn strong(&mut self, word: &str) -> bool {
        let begins = self.id.is_none() && self.codes.is_empty() && self.text.trim().is_empty();
        if begins && looks_like_id(word) {
            self.id = Some(word.to_owned());
            return true;
        }
        false
    }
}

/// Capitals and a hyphen: meant as an id, if perhaps a wrong one.
fn looks_like_id(word: &str) -> bool {
    word.split_once('-')
        .is_some_and(|(prefix, _)| !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_uppercase()))
}

/// Title, head and requirement items, in one walk over the Markdown events.
pub(super) fn blocks(text: &str) -> (String, Planned, Vec<Item>) {
    let mut title = String::new();
    let mut planned = Planned::No;
    let mut items: Vec<Item> = Vec::new();
    // Items that are open, outermost first: a plain list inside a requirement belongs to its text.
    let mut open: Vec<Item> = Vec::new();
    let mut in_title = false;
    let mut strong: Option<String> = None;
    let mut quotes = 0_usize;
    let mut head: Option<String> = None;
    // Only the block that directly follows the title can be the head.
    let mut blocks_seen = 0_usize;
    let mut depth = 0_usize;

    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        match &event {
            Event::Start(tag) => {
                if depth == 0 {
                    blocks_seen += 1;
                    in_title =
                        blocks_seen == 1 && matches!(tag, Tag::Heading { level: HeadingLevel::H1, .. });
                    if blocks_seen == 2 && matches!(tag, Tag::BlockQuote(_)) {
                        head = Some(String::new());
                    }
                }
                depth += 1;
            }
            Event::End(_) => {
                depth -= 1;
                if depth == 0 {
                    in_title = false;
                    if let Some(note) = head.take() {
                        planned = read_head(&note);
                    }
                }
            }
            _ => {}
        }
        let piece = match &event {
            Event::Text(text) | Event::InlineHtml(text) | Event::Html(text) => text.to_string(),
            Event::Code(code) => format!("`{code}`"),
            // Blocks inside an item or a quote are parted as lines are.
            Event::SoftBreak | Event::HardBreak | Event::End(TagEnd::Paragraph) => "\n".to_owned(),
            _ => String::new(),
        };
        if in_title {
            title.push_str(&piece);
        }
        if let Some(note) = &mut head {
            note.push_str(&piece);
        }
        match &event {
            Event::Start(Tag::Item) => open.push(Item { line: line_of(text, &range), ..Item::default() }),
            Event::End(TagEnd::Item) => {
                let Some(item) = open.pop() else { continue };
                match open.last_mut() {
                    _ if item.id.is_some() => items.push(item),
                    Some(outer) => {
                        outer.text.push('\n');
                        outer.text.push_str(&item.text);
                        outer.prose.push('\n');
                        outer.prose.push_str(&item.prose);
                    }
                    None => {}
                }
            }
            Event::Start(Tag::BlockQuote(_)) => quotes += 1,
            Event::End(TagEnd::BlockQuote(_)) => quotes -= 1,
            Event::Start(Tag::Strong) if quotes == 0 => strong = Some(String::new()),
            Event::End(TagEnd::Strong) if quotes == 0 => {
                if let (Some(word), Some(item)) = (strong.take(), open.last_mut())
                    && !item.strong(&word)
                {
                    item.text.push_str(&word);
                    item.prose.push_str(&word);
                }
            }
            Event::Code(code) => {
                if let Some(item) = open.last_mut() {
                    if quotes > 0 {
                        item.quote.push_str(&piece);
                    } else if item.id.is_some() && item.codes.len() < 2 && item.text.trim().is_empty() {
                        item.codes.push(code.to_string());
                    } else {
                        item.text.push_str(&piece);
                    }
                }
            }
            _ => {
                if let Some(word) = &mut strong {
                    word.push_str(&piece);
                } else if let Some(item) = open.last_mut() {
                    if quotes > 0 {
                        item.quote.push_str(&piece);
                    } else {
                        item.text.push_str(&piece);
                        item.prose.push_str(&piece);
                    }
                }
            }
        }
    }
    (one_line(&title), planned, items)
}

fn line_of(text: &str, range: &Range<usize>) -> usize {
    text[..range.start].matches('\n').count() + 1
}

fn read_head(note: &str) -> Planned {
    let note = one_line(note);
    if let Some(rest) = note.strip_prefix("Planned (client):") {
        Planned::Client(rest.trim().to_owned())
    } else if let Some(rest) = note.strip_prefix("Planned:") {
        Planned::Whole(rest.trim().to_owned())
    } else {
        Planned::No
    }
}
