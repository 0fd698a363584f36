//! Requirements as text for a person and as JSON for a program.

use std::fmt::Write;

use local_daemon_spec::{Catalogue, Chapter, Level, Planned, Requirement};
use serde_json::{Value, json};

/// Columns of the sentence in a table; what is before it takes about forty.
const SENTENCE_WIDTH: usize = 80;

/// JSON with a final newline.
pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A table in reading order, a heading for each chapter, and the counts.
pub(crate) fn list(catalogue: &Catalogue, requirements: &[&Requirement]) -> String {
    let mut out = String::new();
    let width =
        |cell: fn(&Requirement) -> &str| requirements.iter().map(|r| cell(r).len()).max().unwrap_or(0);
    let (id, level, role, profile) = (
        width(|r| &r.id),
        width(|r| r.level.key_word()),
        width(|r| r.role.as_str()),
        width(|r| r.profile.as_str()),
    );
    for chapter in catalogue.chapters() {
        let rows: Vec<&&Requirement> = requirements.iter().filter(|r| r.chapter == chapter.slug).collect();
        if rows.is_empty() {
            continue;
        }
        put(&mut out, format_args!("{}\n", heading(chapter)));
        for row in rows {
            let before = format!(
                "  {:id$}  {:level$}  {:role$}  {:profile$}  ",
                row.id,
                row.level.key_word(),
                row.role,
                row.profile,
            );
            for (at, line) in wrap(&row.text, SENTENCE_WIDTH).iter().enumerate() {
                let lead = if at == 0 { before.as_str() } else { "" };
                put(&mut out, format_args!("{lead:indent$}{line}\n", indent = before.len()));
            }
        }
        out.push('\n');
    }
    let counts = Counts::of(requirements);
    let levels: Vec<String> =
        counts.levels.iter().map(|(level, n)| format!("{n} {}", level.key_word())).collect();
    put(
        &mut out,
        format_args!(
            "{} requirements: {}; {} planned, {} untestable\n",
            counts.total,
            levels.join(", "),
            counts.planned,
            counts.untestable,
        ),
    );
    out
}

/// The same as [`list`] for programs.
pub(crate) fn list_json(requirements: &[&Requirement]) -> String {
    let counts = Counts::of(requirements);
    let levels: serde_json::Map<String, Value> =
        counts.levels.iter().map(|(level, n)| (level.to_string(), json!(n))).collect();
    pretty(&json!({
        "requirements": requirements,
        "counts": {
            "total": counts.total,
            "levels": levels,
            "planned": counts.planned,
            "untestable": counts.untestable,
        },
    }))
}

/// One requirement in full; nothing when there is none of that id.
pub(crate) fn show(catalogue: &Catalogue, id: &str, as_json: bool) -> Option<String> {
    let requirement = catalogue.get(id)?;
    let chapter = catalogue.chapter(&requirement.chapter)?;
    let place = format!("spec/chapters/{}", chapter.file());
    if as_json {
        let mut value = json!(requirement);
        value["file"] = json!(place);
        return Some(pretty(&value));
    }
    let mut out = String::new();
    put(&mut out, format_args!("{}  {}\n\n", requirement.id, requirement.level.key_word()));
    for line in wrap(&requirement.text, SENTENCE_WIDTH) {
        put(&mut out, format_args!("  {line}\n"));
    }
    out.push('\n');
    let mut paragraph = |lead: &str, text: &str| {
        for (at, line) in wrap(text, SENTENCE_WIDTH).iter().enumerate() {
            let lead = if at == 0 { lead } else { "" };
            put(&mut out, format_args!("  {lead:10}  {line}\n"));
        }
    };
    paragraph("role", requirement.role.as_str());
    paragraph("profile", requirement.profile.as_str());
    paragraph("chapter", &format!("{} ({place}:{})", chapter.title, requirement.line));
    if let Some(why) = &requirement.why {
        paragraph("why", why);
    }
    if let Some(untestable) = &requirement.untestable {
        paragraph("untestable", untestable);
    }
    if requirement.planned {
        paragraph("planned", chapter.planned.note().unwrap_or_default());
    }
    Some(out)
}

fn heading(chapter: &Chapter) -> String {
    let planned = match chapter.planned {
        Planned::No => "",
        Planned::Client(_) => " (planned: client)",
        Planned::Whole(_) => " (planned)",
    };
    format!("{:02} {}{planned}", chapter.number, chapter.title)
}

struct Counts {
    total: usize,
    levels: Vec<(Level, usize)>,
    planned: usize,
    untestable: usize,
}

impl Counts {
    fn of(requirements: &[&Requirement]) -> Self {
        let count = |wanted: &dyn Fn(&Requirement) -> bool| requirements.iter().filter(|r| wanted(r)).count();
        Self {
            total: requirements.len(),
            levels: Level::ALL.iter().map(|level| (*level, count(&|r| r.level == *level))).collect(),
            planned: count(&|r| r.planned),
            untestable: count(&|r| r.untestable.is_some()),
        }
    }
}

fn put(out: &mut String, text: std::fmt::Arguments) {
    out.write_fmt(text).expect("writing to a string does not fail");
}

/// Lines of at most `width` columns, broken at spaces; a longer word stands alone.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISH: &str = "\
# Publishing

> Planned (client): the suite has no client role yet.

Prose about **bold** things.

- **PUB-1** `daemon` `core` A daemon MUST write a temporary file in `DIR`, flush it
  and rename it over the record, so that no reader ever sees a part of one.

  > Why: a record written in place was read half.
- **PUB-2** `client` `client` A client SHOULD NOT take the record's existence for life.
- **PUB-3** `daemon` `core` A daemon MUST NOT publish before it listens.
  > Why: a client that came in between found a refused port.
  > Untestable: the order is inside one process.
";

    fn fixture() -> Catalogue {
        Catalogue::parse(&[("05-publish", PUBLISH)]).unwrap()
    }

    #[test]
    fn the_table_groups_by_chapter_and_counts() {
        let catalogue = fixture();
        let all: Vec<_> = catalogue.requirements().collect();
        insta::assert_snapshot!("list", list(&catalogue, &all));
        insta::assert_snapshot!("list_json", list_json(&all));
    }

    #[test]
    fn a_requirement_is_shown_with_place_and_reason() {
        let catalogue = fixture();
        insta::assert_snapshot!("show_must", show(&catalogue, "PUB-1", false).unwrap());
        insta::assert_snapshot!("show_planned", show(&catalogue, "PUB-2", false).unwrap());
        insta::assert_snapshot!("show_untestable", show(&catalogue, "PUB-3", false).unwrap());
        insta::assert_snapshot!("show_json", show(&catalogue, "PUB-3", true).unwrap());
        assert_eq!(show(&catalogue, "PUB-4", false), None);
    }

    #[test]
    fn an_empty_list_still_counts() {
        let text = list(&fixture(), &[]);
        assert_eq!(
            text,
            "0 requirements: 0 MUST, 0 MUST NOT, 0 SHOULD, 0 SHOULD NOT, 0 MAY; 0 planned, 0 untestable\n"
        );
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_stand_alone() {
        assert_eq!(wrap("a bc def ghijklm n", 6), ["a bc", "def", "ghijklm", "n"]);
    }
}
