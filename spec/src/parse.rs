//! Reads chapters: the grammar of a requirement is a list item that begins with a strong id, two code words (role and
//! profile) and one sentence, with block quotes inside for what does not bind.

mod blocks;
mod fault;
mod prose;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use self::blocks::{Item, blocks};
pub use self::fault::{Fault, FaultKind};
use self::prose::{first_level, key_words, notes, one_line, sentences};
use crate::catalogue::{Catalogue, Chapter, Level, Planned, Profile, Requirement, Role};
use crate::documents::PREFIXES;

impl Catalogue {
    /// Reads chapters, each given by its numbered slug (`05-publish`) and its text. Every fault is found, not only the
    /// first.
    pub fn parse(chapters: &[(&str, &str)]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut ids = Ids::default();
        let chapters = chapters
            .iter()
            .filter_map(|(name, text)| {
                let mut reader = Reader { name, text, ids: &mut ids, faults: &mut faults };
                reader.chapter()
            })
            .collect();
        find_gaps(&ids, &mut faults);
        if faults.is_empty() { Ok(Self { chapters }) } else { Err(faults) }
    }
}

/// Where each number of a prefix is defined: the chapter and the line. Chapters may share a prefix.
type Ids = BTreeMap<&'static str, BTreeMap<u32, (String, usize)>>;

fn find_gaps(ids: &Ids, faults: &mut Vec<Fault>) {
    for (prefix, numbers) in ids {
        let mut expected = 1;
        for (n, (chapter, line)) in numbers {
            if *n > expected {
                let kind =
                    FaultKind::Gap { missing: format!("{prefix}-{expected}"), id: format!("{prefix}-{n}") };
                faults.push(Fault { chapter: chapter.clone(), line: *line, kind });
            }
            expected = n + 1;
        }
    }
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    ids: &'a mut Ids,
    faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, line: usize, kind: FaultKind) {
        self.faults.push(Fault { chapter: self.name.to_owned(), line, kind });
    }

    fn chapter(&mut self) -> Option<Chapter> {
        let known = PREFIXES.iter().find(|(name, _)| *name == self.name);
        let numbered = self.name.split_once('-').and_then(|(n, slug)| Some((n.parse().ok()?, slug)));
        let (Some((_, prefix)), Some((number, slug))) = (known, numbered) else {
            self.fault(1, FaultKind::UnknownChapter);
            return None;
        };
        let (title, planned, items) = blocks(self.text);
        if title.is_empty() {
            self.fault(1, FaultKind::NoTitle);
        }

        let mut requirements = Vec::new();
        for item in items {
            let id = item.id.as_deref().unwrap_or_default();
            match id_number(id, prefix) {
                None => self.fault(item.line, FaultKind::BadId { id: id.to_owned(), prefix }),
                Some(n) => match self.ids.entry(prefix).or_default().entry(n) {
                    Entry::Occupied(entry) => {
                        let kind = FaultKind::DuplicateId { id: id.to_owned(), first: entry.get().1 };
                        self.fault(item.line, kind);
                    }
                    Entry::Vacant(entry) => {
                        entry.insert((self.name.to_owned(), item.line));
                    }
                },
            }
            requirements.extend(self.requirement(&item, slug, &planned));
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
