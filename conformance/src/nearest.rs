//! Suggestions for what was probably meant.

/// The candidates that look most like `wanted`, the likeliest first, at most `most`; none that has little in common
/// with it.
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    const LIKE: f64 = 0.7;
    let wanted = wanted.to_lowercase();
    let mut ranked: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > LIKE)
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.into_iter().take(most).map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn what_was_probably_meant_comes_first_and_nonsense_suggests_nothing() {
        let keys = ["ready_timeout_ms", "stand_down_timeout_ms", "run", "env"];
        assert_eq!(nearest("ready_timeout", keys, 1), ["ready_timeout_ms"]);
        assert_eq!(nearest("rum", keys, 1), ["run"]);
        assert_eq!(nearest("pub-3", ["PUB-2", "PUB-3"], 1), ["PUB-3"]);
        assert!(nearest("zzzzzz", keys, 3).is_empty());
    }
}
