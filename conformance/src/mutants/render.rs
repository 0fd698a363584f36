//! The matrix as text for a terminal or a pipe, as Markdown and as JSON.

use std::fmt::Write as _;

use local_daemon_spec::catalogue;

use super::{Cell, Fate, Matrix, Row};
use crate::report::markdown::escape;
use crate::report::terminal::clean;

impl Matrix {
    /// Survivors first, then fault × case, then the cases, then one line for scripts.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (fate, word) in [(Fate::Survived, "SURVIVED"), (Fate::Unjudged, "UNJUDGED")] {
            for row in self.of(fate) {
                let _ = writeln!(text, "{word} {}: {}", row.fault, row.about);
                if let Some(requirement) = catalogue().get(row.requirement) {
                    let _ = writeln!(text, "  {}: {}", row.requirement, requirement.text);
                }
                if let Some(why) = &row.why {
                    let _ = writeln!(text, "  {why}");
                }
                for cell in row.cells.iter().filter(|cell| cell.covers) {
                    let seen = cell.observed.as_deref().map(|seen| format!(": {}", clean(seen)));
                    let _ = writeln!(text, "  {} {}{}", cell.verdict, cell.case, seen.unwrap_or_default());
                }
                text.push('\n');
            }
        }
        let width = self.faults.iter().map(|row| row.fault.len()).max().unwrap_or_default();
        for row in self.of(Fate::Killed) {
            let _ = writeln!(
                text,
                "killed  {:width$}  {}",
                row.fault,
                row.killers().collect::<Vec<_>>().join(", ")
            );
        }
        let others: Vec<(&Row, Vec<&Cell>)> = self
            .faults
            .iter()
            .map(|row| {
                (row, row.cells.iter().filter(|cell| !cell.covers && cell.verdict.needs_a_look()).collect())
            })
            .filter(|(_, cells): &(_, Vec<_>)| !cells.is_empty())
            .collect();
        if !others.is_empty() {
            text.push_str(
                "\nCases that do not list the broken requirement and noticed, which kills nothing:\n",
            );
            for (row, cells) in others {
                let cells = cells.iter().map(|cell| format!("{} ({})", cell.case, cell.verdict));
                let _ = writeln!(text, "  {:width$}  {}", row.fault, cells.collect::<Vec<_>>().join(", "));
            }
        }
        if self.whole {
            list(&mut text, SUPERFLUOUS, self.superfluous().map(|worth| worth.case));
            list(&mut text, UNTRIED, self.untried.iter().copied());
        }
        let idle = self.idle.iter().map(|idle| {
            let why = idle.why.as_deref().unwrap_or_default();
            format!("{}: {}, {}", idle.case, idle.verdict, clean(why))
        });
        list(&mut text, IDLE, idle);
        if !self.complete {
            text.push_str("\nThe run was interrupted; what has no result counts as survived.\n");
        }
        let _ = writeln!(text, "\n{}", self.line());
        text
    }

    /// One line for scripts.
    pub fn line(&self) -> String {
        let score = self.score;
        format!(
            "faults: {}, {} killed, {} survived, {} unjudged, score {} %",
            score.faults,
            score.killed,
            score.survived,
            score.unjudged,
            score.percent()
        )
    }

    /// For `KILLS.md`: nothing in it changes from one run to the next unless a fault, a case or a kill does.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# Which case kills which fault\n\n\
             `ci/kills` makes this file; what counts as a kill is said in `conformance/src/mutants.rs`.\n\n\
             **{}** of {} faults are killed ({} %), {} survive, {} cannot be judged here; {} cases take part.\n",
            self.score.killed,
            self.score.faults,
            self.score.percent(),
            self.score.survived,
            self.score.unjudged,
            self.cases.len(),
        );
        for (fate, heading) in [(Fate::Survived, "Survivors"), (Fate::Unjudged, "Unjudged")] {
            if self.of(fate).next().is_none() {
                continue;
            }
            let _ = writeln!(text, "\n## {heading}\n\n| Fault | What is wrong | Why |\n|---|---|---|");
            for row in self.of(fate) {
                let why = row.why.as_deref().unwrap_or("every case that covers it lets it pass");
                let _ = writeln!(text, "| `{}` | {} | {} |", row.fault, escape(row.about), escape(why));
            }
        }
        for chapter in catalogue().chapters() {
            let of_it = |row: &&Row| chapter.requirements.iter().any(|it| it.id == row.requirement);
            let mut rows = self.faults.iter().filter(of_it).peekable();
            if rows.peek().is_none() {
                continue;
            }
            let _ = writeln!(text, "\n## {}\n", chapter.slug);
            text.push_str("| Fault | What is wrong | Killed by |\n|---|---|---|\n");
            for row in rows {
                let killers: Vec<String> = row.killers().map(|case| format!("`{case}`")).collect();
                let _ = writeln!(text, "| `{}` | {} | {} |", row.fault, escape(row.about), killers.join(" "));
            }
        }
        text.push_str("\n## Cases\n\n| Case | Kills | Only it kills |\n|---|---|---|\n");
        for worth in &self.cases {
            let alone: Vec<String> = worth.alone.iter().map(|fault| format!("`{fault}`")).collect();
            let _ = writeln!(text, "| `{}` | {} | {} |", worth.case, worth.kills.len(), alone.join(" "));
        }
        if self.whole {
            let code = |case: &str| format!("`{case}`");
            list_markdown(&mut text, SUPERFLUOUS, self.superfluous().map(|worth| code(worth.case)));
            list_markdown(&mut text, UNTRIED, self.untried.iter().map(|case| code(case)));
        }
        let idle = self.idle.iter().map(|idle| format!("`{}`: {}", idle.case, idle.verdict));
        list_markdown(&mut text, IDLE, idle);
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a matrix has string keys only") + "\n"
    }
}

const SUPERFLUOUS: &str = "Cases that kill nothing of their own (without one of them no fault would survive)";
const UNTRIED: &str = "Cases of claimed profiles that no fault is about";
const IDLE: &str = "Cases that cannot judge here";

fn list(text: &mut String, heading: &str, lines: impl Iterator<Item = impl std::fmt::Display>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = writeln!(text, "\n{heading}:");
        lines.for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
    }
}

fn list_markdown(text: &mut String, heading: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = writeln!(text, "\n## {heading}\n");
        lines.for_each(|line| {
            let _ = writeln!(text, "- {line}");
        });
    }
}
