//! Chapter 18: JSON that readers in other languages refuse or read differently.

use std::collections::HashSet;

use crate::fault::broken;

/// How deeply a note may be nested, counting its own object.
const MAX_LEVELS: usize = 64;

/// Whether every reader reads this JSON text alike: it is not too deep, and holds no half of a surrogate pair, no number
/// beyond the range of a double and no object with two equal keys.
pub(crate) fn is_read_alike(text: &str) -> bool {
    if broken("STR-31.unread") {
        return true;
    }
    let most = if broken("STR-31.fewer-levels") { MAX_LEVELS - 1 } else { MAX_LEVELS };
    // The keys so far of each object around the token; `None` for an array.
    let mut open: Vec<Option<HashSet<String>>> = Vec::new();
    let (mut rest, mut before) = (text.trim_start(), ' ');
    while let Some(first) = rest.chars().next() {
        let (token, after) = rest.split_at(length_of_token(rest, first));
        match first {
            '{' => open.push(Some(HashSet::new())),
            '[' => open.push(None),
            '}' | ']' => drop(open.pop()),
            '"' => {
                let string = match serde_json::from_str(token) {
                    Ok(_) if broken("STR-31.keys-as-written") => token.to_owned(),
                    Ok(string) => string,
                    Err(_) if broken("STR-31.half-pairs") => token.to_owned(),
                    Err(_) => return false,
                };
                if matches!(before, '{' | ',')
                    && let Some(Some(keys)) = open.last_mut()
                    && !keys.insert(string)
                    && !broken("STR-31.last-of-two")
                {
                    return false;
                }
            }
            '-' | '0'..='9' if !token.parse().is_ok_and(f64::is_finite) && !broken("STR-31.any-number") => {
                return false;
            }
            _ => {}
        }
        if open.len() > most && !broken("STR-31.any-depth") {
            return false;
        }
        (rest, before) = (after.trim_start(), first);
    }
    true
}

/// Returns the length of the first token of a JSON text, in bytes.
fn length_of_token(text: &str, first: char) -> usize {
    match first {
        '{' | '}' | '[' | ']' | ',' | ':' => 1,
        '"' => {
            let mut escaped = false;
            let end = text.bytes().skip(1).position(|byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            });
            end.map_or(text.len(), |end| end + 2)
        }
        _ => text
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | ']' | '}'))
            .unwrap_or(text.len()),
    }
}
