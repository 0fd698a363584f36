//! Results of one cause, reported once.

use super::{CaseResult, Report};
use crate::verdict::Verdict;

/// Results of one verdict in which the same was observed.
#[derive(Debug)]
pub struct Group<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// In the order of the report; at least one.
    pub results: Vec<&'a CaseResult>,
}

impl<'a> Group<'a> {
    /// The only one of its cause.
    pub fn single(&self) -> Option<&'a CaseResult> {
        match self.results[..] {
            [result] => Some(result),
            _ => None,
        }
    }

    /// What was observed in all of them, up to times and process ids.
    pub fn observed(&self) -> &'a str {
        self.results[0].observed.as_deref().unwrap_or_default()
    }
}

/// Returns the results that need attention and are not known failures, grouped by what was observed.
pub fn groups(report: &Report) -> Vec<Group<'_>> {
    let mut groups: Vec<(String, Group<'_>)> = Vec::new();
    for result in report
        .results
        .iter()
        .filter(|result| result.verdict.needs_a_look() && result.known.is_none())
    {
        let cause = cause(result.observed.as_deref().unwrap_or_default());
        let same = |(other, group): &&mut (String, Group<'_>)| {
            !cause.is_empty() && *other == cause && group.verdict == result.verdict
        };
        match groups.iter_mut().find(same) {
            Some((_, group)) => group.results.push(result),
            None => groups.push((cause, Group { verdict: result.verdict, results: vec![result] })),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// An observation without what differs by chance: how long something took, and which process it was.
fn cause(observed: &str) -> String {
    let words: Vec<&str> = observed.split_whitespace().collect();
    let number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let by_chance = |place: usize| {
        let unit = words.get(place + 1).map(|word| word.trim_end_matches(|c: char| !c.is_ascii_alphabetic()));
        let after_pid = place > 0 && words[place - 1].ends_with("pid");
        number(words[place]) && (after_pid || matches!(unit, Some("ms" | "s")))
    };
    let kept = (0..words.len()).map(|place| if by_chance(place) { "#" } else { words[place] });
    kept.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_process_ids_make_no_other_cause_and_statuses_do() {
        assert_eq!(
            cause("daemon-1 (pid 7) is not ready after 5003 ms; x"),
            cause("daemon-1 (pid 81) is not ready after 5010 ms; x")
        );
        assert_ne!(cause("a good note: answered 202"), cause("a good note: answered 404"));
    }
}
