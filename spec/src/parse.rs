//! Reads chapters: the grammar of a requirement is a list item that begins with a strong id, two code words (role and
//! profile) and one sentence, with block quotes inside for what does not bind.

use std::collections::BTreeMap;
use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use serde::Serialize;

use crate::catalogue::{Catalogue, Chapter, Level, Planned, Profile, Requirement, Role};
use crate::documents::PREFIXES;

/// Something in a chapter that cannot be read as the grammar asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{chapter}.md:{line}: {kind}")]
pub struct Fault {
    /// The numbered slug, such as `05-publish`.
    pub chapter: String,
    /// The line in the file, from 1.
    pub line: usize,
    /// What is wrong.
    #[serde(serialize_with = "as_text")]
    pub kind: FaultKind,
}

fn as_text<S: serde::Serializer>(kind: &FaultKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(kind)
}

/// The ways in which a chapter can be faulty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// The specification has no such chapter, so its ids have no prefix.
    #[error("not a chapter of the specification")]
    UnknownChapter,
    /// The first block is not a heading of the first level.
    #[error("the chapter does not begin with `# Title`")]
    NoTitle,
    /// The id does not have the form `PREFIX-N` with this chapter's prefix and N from 1 without leading zeros.
    #[error("`{id}` is no id of this chapter, whose ids are `{prefix}-1` and so on")]
    BadId {
        /// As written.
        id: String,
        /// What this chapter's ids begin with.
        prefix: &'static str,
    },
    /// An id names two requirements.
    #[error("`{id}` is already used at line {first}")]
    DuplicateId {
        /// As written.
        id: String,
        /// Where it was seen first.
        first: usize,
    },
    /// Numbers below the highest one are not used.
    #[error("{missing} is missing before `{id}`")]
    Gap {
        /// The first id that is not there.
        missing: String,
        /// The next id that is there.
        id: String,
    },
    /// No code word where the role stands.
    #[error("`{0}` has no role (a code word right after the id)")]
    NoRole(String),
    /// No code word where the profile stands.
    #[error("`{0}` has no profile (a code word right after the role)")]
    NoProfile(String),
    /// The role or profile is none of the known ones.
    #[error("`{id}`: {problem}")]
    UnknownWord {
        /// The requirement.
        id: String,
        /// The word and what was expected.
        problem: crate::catalogue::UnknownWord,
    },
    /// The client role and the client profile go together.
    #[error(
        "`{id}` has role `{role}` and profile `{profile}`: the role `client` and the profile `client` go together"
    )]
    ClientProfile {
        /// The requirement.
        id: String,
        /// Its role.
        role: Role,
        /// Its profile.
        profile: Profile,
    },
    /// The sentence binds nobody.
    #[error("`{0}` has no key word in capitals (MUST, MUST NOT, SHOULD, SHOULD NOT, MAY)")]
    NoKeyWord(String),
    /// Two sentences of one item bind.
    #[error("`{0}` holds more than one MUST sentence; one requirement is one sentence")]
    TwoSentences(String),
    /// A MUST without its reason.
    #[error("`{0}` is a MUST without `> Why:` inside the item")]
    NoWhy(String),
}

impl Catalogue {
    /// Reads chapters, each given by its numbered slug (`05-publish`) and its text. Every fault is found, not only the
    /// first.
    pub fn parse(chapters: &[(&str, &str)]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let chapters = chapters
            .iter()
            .filter_map(|(name, text)| {
                let mut reader = Reader { name, text, faults: &mut faults };
                reader.chapter()
            })
            .collect();
        if faults.is_empty() { Ok(Self { chapters }) } else { Err(faults) }
    }
}

/// A requirement's list item as it is written, before its words are understood.
#[derive(Default)]
struct Item {
    line: usize,
    id: Option<String>,
    codes: Vec<String>,
    text: String,
    /// The text without code, where key words are looked for.
    prose: String,
    quote: String,
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

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, line: usize, kind: FaultKind) {
        self.faults.push(Fault { chapter: self.name.to_owned(), line, kind });
    }

    fn line_of(&self, range: &Range<usize>) -> usize {
        self.text[..range.start].matches('\n').count() + 1
    }

    fn chapter(&mut self) -> Option<Chapter> {
        let known = PREFIXES.iter().find(|(name, _)| *name == self.name);
        let numbered = self.name.split_once('-').and_then(|(n, slug)| Some((n.parse().ok()?, slug)));
        let (Some((_, prefix)), Some((number, slug))) = (known, numbered) else {
            self.fault(1, FaultKind::UnknownChapter);
            return None;
        };
        let (title, planned, items) = self.blocks();
        if title.is_empty() {
            self.fault(1, FaultKind::NoTitle);
        }

        let mut lines: BTreeMap<u32, usize> = BTreeMap::new();
        let mut requirements = Vec::new();
        for item in items {
            let id = item.id.as_deref().unwrap_or_default();
            match id_number(id, prefix) {
                None => self.fault(item.line, FaultKind::BadId { id: id.to_owned(), prefix }),
                Some(n) => match lines.get(&n) {
                    Some(first) => {
                        let kind = FaultKind::DuplicateId { id: id.to_owned(), first: *first };
                        self.fault(item.line, kind);
                    }
                    None => {
                        lines.insert(n, item.line);
                    }
                },
            }
            requirements.extend(self.requirement(&item, slug, &planned));
        }
        let mut expected = 1;
        for (n, line) in lines {
            if n > expected {
                let kind =
                    FaultKind::Gap { missing: format!("{prefix}-{expected}"), id: format!("{prefix}-{n}") };
                self.fault(line, kind);
            }
            expected = n + 1;
        }
        Some(Chapter {
            slug: slug.to_owned(),
            number,
            title,
            prefix: (*prefix).to_owned(),
            planned,
            requirements,
        })
    }

    /// Title, head and requirement items, in one walk over the Markdown events.
    fn blocks(&self) -> (String, Planned, Vec<Item>) {
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

        for (event, range) in Parser::new_ext(self.text, Options::ENABLE_TABLES).into_offset_iter() {
            match &event {
                Event::Start(tag) => {
                    if depth == 0 {
                        blocks_seen += 1;
                        in_title = blocks_seen == 1
                            && matches!(tag, Tag::Heading { level: pulldown_cmark::HeadingLevel::H1, .. });
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
                Event::Start(Tag::Item) => open.push(Item { line: self.line_of(&range), ..Item::default() }),
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

    /// The requirement that an item states, as far as its words are understood.
    fn requirement(&mut self, item: &Item, slug: &str, planned: &Planned) -> Option<Requirement> {
        let id = item.id.clone()?;
        let role = self.word::<Role>(item, &id, 0, FaultKind::NoRole);
        let profile = self.word::<Profile>(item, &id, 1, FaultKind::NoProfile);
        if let (Some(role), Some(profile)) = (role, profile)
            && (role == Role::Client) != (profile == Profile::Client)
        {
            self.fault(item.line, FaultKind::ClientProfile { id: id.clone(), role, profile });
        }
        let level = first_level(&item.prose);
        if level.is_none() {
            self.fault(item.line, FaultKind::NoKeyWord(id.clone()));
        }
        let binding =
            sentences(&item.prose).filter(|sentence| key_words(sentence).any(Level::is_must)).count();
        if binding > 1 {
            self.fault(item.line, FaultKind::TwoSentences(id.clone()));
        }
        let (why, untestable) = notes(&item.quote);
        if why.is_none() && level.is_some_and(Level::is_must) {
            self.fault(item.line, FaultKind::NoWhy(id.clone()));
        }
        let role = role?;
        Some(Requirement {
            id,
            level: level?,
            role,
            profile: profile?,
            chapter: slug.to_owned(),
            text: one_line(&item.text),
            why,
            untestable,
            planned: planned.covers(role),
            line: item.line,
        })
    }

    fn word<W>(&mut self, item: &Item, id: &str, at: usize, missing: fn(String) -> FaultKind) -> Option<W>
    where
        W: std::str::FromStr<Err = crate::catalogue::UnknownWord>,
    {
        let Some(word) = item.codes.get(at) else {
            self.fault(item.line, missing(id.to_owned()));
            return None;
        };
        match word.parse() {
            Ok(word) => Some(word),
            Err(problem) => {
                self.fault(item.line, FaultKind::UnknownWord { id: id.to_owned(), problem });
                None
            }
        }
    }
}

/// `PREFIX-N` → N.
fn id_number(id: &str, prefix: &str) -> Option<u32> {
    let digits = id.strip_prefix(prefix)?.strip_prefix('-')?;
    let number: u32 = digits.parse().ok()?;
    (number > 0 && number.to_string() == digits).then_some(number)
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

/// `Why:` and `Untestable:` begin a note; lines that begin with neither go on with the one before.
fn notes(quote: &str) -> (Option<String>, Option<String>) {
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

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn first_level(prose: &str) -> Option<Level> {
    key_words(prose).next()
}

/// The key words of a text, in order.
fn key_words(prose: &str) -> impl Iterator<Item = Level> {
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
fn sentences(prose: &str) -> impl Iterator<Item = &str> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# Publishing

- **PUB-1** `daemon` `core` A daemon MUST listen first.
  > Why: trace one.
- **PUB-2** `both` `proof` Anyone MAY look.
";

    fn parse(text: &str) -> Result<Catalogue, Vec<Fault>> {
        Catalogue::parse(&[("05-publish", text)])
    }

    /// The line and text of each fault in [`GOOD`] with one thing replaced.
    fn faults(from: &str, to: &str) -> Vec<(usize, String)> {
        assert!(GOOD.contains(from), "the fixture has no {from:?}");
        let faults = parse(&GOOD.replacen(from, to, 1)).expect_err("the change is a fault");
        faults.into_iter().map(|fault| (fault.line, fault.kind.to_string())).collect()
    }

    fn only(from: &str, to: &str, line: usize, says: &str) {
        let found = faults(from, to);
        let [(at, text)] = found.as_slice() else {
            panic!("not one fault but {found:?}")
        };
        assert_eq!(*at, line, "{text}");
        assert!(text.contains(says), "{text:?} does not say {says:?}");
    }

    #[test]
    fn a_good_chapter_is_read_whole() {
        let catalogue = parse(GOOD).unwrap();
        let chapter = &catalogue.chapters()[0];
        assert_eq!(
            (chapter.slug.as_str(), chapter.number, chapter.title.as_str(), chapter.prefix.as_str()),
            ("publish", 5, "Publishing", "PUB")
        );
        assert_eq!(chapter.planned, Planned::No);
        let first = catalogue.get("PUB-1").unwrap();
        assert_eq!((first.level, first.role, first.profile), (Level::Must, Role::Daemon, Profile::Core));
        assert_eq!((first.line, first.why.as_deref()), (3, Some("trace one.")));
        assert_eq!(first.text, "A daemon MUST listen first.");
        let second = catalogue.get("PUB-2").unwrap();
        assert_eq!((second.level, second.line, second.untestable.as_deref()), (Level::May, 5, None));
    }

    #[test]
    fn levels_are_the_first_key_word_even_across_a_line_break_and_never_from_code() {
        let text = "# T\n\n- **PUB-1** `daemon` `core` With `MUST` written, it SHOULD\n  NOT do this, it MAY that.\n";
        assert_eq!(parse(text).unwrap().get("PUB-1").unwrap().level, Level::ShouldNot);
    }

    #[test]
    fn code_lists_and_emphasis_inside_an_item_stay_in_its_text() {
        let text = "# T\n\n- **PUB-1** `daemon` `core` A *daemon* MAY, with `x y`:\n  - **first** do\n  - then `be`\n";
        assert_eq!(
            parse(text).unwrap().get("PUB-1").unwrap().text,
            "A daemon MAY, with `x y`: first do then `be`"
        );
    }

    #[test]
    fn quotes_part_into_notes_in_either_layout() {
        for quotes in [
            "  > Why: a\n  > b\n  > Untestable: c\n",
            "\n  > Why: a\n  > b\n\n  > Untestable: c\n",
        ] {
            let text = format!("# T\n\n- **PUB-1** `daemon` `core` It MUST be.\n{quotes}");
            let catalogue = parse(&text).unwrap();
            let requirement = catalogue.get("PUB-1").unwrap();
            assert_eq!(requirement.why.as_deref(), Some("a b"), "{text}");
            assert_eq!(requirement.untestable.as_deref(), Some("c"), "{text}");
            assert_eq!(requirement.text, "It MUST be.");
        }
    }

    #[test]
    fn the_head_plans_all_or_the_client_or_nothing() {
        let text = |head: &str| {
            format!(
                "# T\n\n{head}\n\n- **PUB-1** `daemon` `core` It MAY be.\n- **PUB-2** `client` `client` It MAY be.\n"
            )
        };
        let planned = |head: &str| {
            let catalogue = parse(&text(head)).unwrap();
            catalogue.requirements().map(|r| r.planned).collect::<Vec<_>>()
        };
        assert_eq!(planned("> Planned: later"), [true, true]);
        assert_eq!(planned("> Planned (client): later"), [false, true]);
        assert_eq!(planned("> A quote."), [false, false]);
        assert_eq!(planned("Prose.\n\n> Planned: too late to be the head"), [false, false]);
        assert_eq!(
            parse(&text("> Planned: later")).unwrap().chapters()[0].planned,
            Planned::Whole("later".into())
        );
    }

    #[test]
    fn ordinary_items_are_no_requirements() {
        let text = "# T\n\n- **bold** text that MUST not count\n- see **PUB-7** for what MUST be\n";
        assert_eq!(parse(text).unwrap().requirements().count(), 0);
    }

    #[test]
    fn every_kind_of_fault_is_seen_with_its_line() {
        only("# Publishing", "Publishing", 1, "# Title");
        only("**PUB-2**", "**REG-2**", 5, "`REG-2` is no id of this chapter");
        only("**PUB-2**", "**PUB-02**", 5, "`PUB-02` is no id");
        only("**PUB-2**", "**PUB-two**", 5, "`PUB-two` is no id");
        only("**PUB-2**", "**PUB-1**", 5, "already used at line 3");
        only("**PUB-2**", "**PUB-3**", 5, "PUB-2 is missing before `PUB-3`");
        only("MAY", "may", 5, "no key word");
        only("A daemon MUST listen first.", "It MUST listen. It MUST NOT publish.", 3, "more than one MUST");
        assert_eq!(faults("`both` `proof` ", "").len(), 2, "neither role nor profile");
        assert!(faults("`both` `proof` ", "")[0].1.contains("no role"));
        only(" `proof`", "", 5, "no profile");
        only("`both`", "`server`", 5, "`server` is no role");
        only("`proof`", "`proofs`", 5, "`proofs` is no profile");
        only("  > Why: trace one.\n", "", 3, "without `> Why:`");
        only("trace one.", "", 3, "without `> Why:`");
        only("`both` `proof`", "`client` `proof`", 5, "go together");
        only("`both` `proof`", "`daemon` `client`", 5, "go together");
        let unknown = Catalogue::parse(&[("99-more", GOOD)]).unwrap_err();
        assert_eq!(unknown[0].to_string(), "99-more.md:1: not a chapter of the specification");
    }

    #[test]
    fn a_missing_profile_is_told_apart_from_a_code_word_in_the_sentence() {
        // With one code word missing, a code word later in the sentence is not taken for it.
        only("`both` `proof` Anyone MAY look", "`both` Anyone MAY look at `proof`", 5, "no profile");
    }

    #[test]
    fn all_faults_are_reported_not_only_the_first() {
        let text = "# T\n\n- **PUB-2** `x` It is.\n";
        assert_eq!(parse(text).unwrap_err().len(), 4);
    }

    #[test]
    fn abbreviations_do_not_end_a_sentence() {
        let text = "# T\n\n- **PUB-1** `daemon` `core` It MUST, e.g. in `A.b`, be and MUST NOT, i.e. never, not.\n  > Why: x\n";
        assert_eq!(parse(text).unwrap().requirements().count(), 1);
    }
}
