//! Text for people: JSON in a readable form, and lines without secrets or control characters.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Renders a JSON value as lines of text: the members of an object one a line, their values in one column.
pub fn render(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(members) => object(members, 0, &mut text),
        Value::Array(items) if items.iter().any(is_structured) => list(items, 0, &mut text),
        value => line(&scalar(value), &mut text),
    }
    text
}

/// Replaces control characters, which a terminal would obey, in a line of text from another source.
pub fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn object(members: &Map<String, Value>, indent: usize, text: &mut String) {
    let width = members
        .iter()
        .filter(|(_, value)| !is_nested(value))
        .map(|(key, _)| key.chars().count())
        .max();
    let width = width.unwrap_or(0);
    for (key, value) in members {
        let key = printable(key);
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                line(&format!("{:indent$}{key}", ""), text);
                object(inner, indent + 2, text);
            }
            Value::Array(items) if items.iter().any(is_structured) => {
                line(&format!("{:indent$}{key}", ""), text);
                list(items, indent + 2, text);
            }
            value => line(&format!("{:indent$}{key:width$}  {}", "", scalar(value)), text),
        }
    }
}

fn list(items: &[Value], indent: usize, text: &mut String) {
    for item in items {
        match item {
            Value::Object(members) if !members.is_empty() => {
                line(&format!("{:indent$}-", ""), text);
                object(members, indent + 2, text);
            }
            item => line(&format!("{:indent$}- {}", "", scalar(item)), text),
        }
    }
}

fn is_structured(value: &Value) -> bool {
    matches!(value, Value::Object(_) | Value::Array(_))
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => items.iter().any(is_structured),
        _ => false,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(", "),
        Value::Object(_) => "none".to_owned(),
        value => value.to_string(),
    }
}

fn line(content: &str, text: &mut String) {
    text.push_str(content);
    text.push('\n');
}

const BLOT: &str = "[redacted]";
/// The length of 256 bits in base64url: credentials, tickets, page tokens, proofs.
const SECRET: usize = 43;

/// Redacts what follows `token=` (PER-27), and each run of base64url characters, plus and percent signs that is long enough to
/// hold a secret, whether plain, percent-encoded or part of a longer word (CRED-8).
pub fn redact(text: &str) -> Cow<'_, str> {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '%');
    let mut clean = String::new();
    let mut kept = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let run = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(run);
        let value = after.strip_prefix('=').filter(|_| word.ends_with("token"));
        let is_secret = run >= SECRET;
        if value.is_none() && !is_secret {
            at += run + after.chars().next().map_or(0, char::len_utf8);
            continue;
        }
        let start = if is_secret { at } else { at + run + 1 };
        let ends = |c: char| c == '&' || c == '"' || c.is_whitespace();
        let end = at + run + value.map_or(0, |value| 1 + value.find(ends).unwrap_or(value.len()));
        clean.push_str(&text[kept..start]);
        clean.push_str(BLOT);
        (kept, at) = (end, end);
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    clean.push_str(&text[kept..]);
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;
    use serde_json::json;

    use super::{redact, render};

    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    #[test]
    fn members_stand_in_columns_and_nested_ones_below() {
        let value = json!({"pid": 42, "capabilities": ["a", "b"], "none": [], "socket": null, "deep": {"x": true},
            "list": [{"y": 1}, "z"]});
        assert_eq!(
            render(&value),
            "capabilities  a, b\ndeep\n  x  true\nlist\n  -\n    y  1\n  - z\nnone          none\npid           42\nsocket        -\n"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(render(&json!("a\u{1b}[31mb")), "a [31mb\n");
        let keys = json!({"a\u{1b}[31m": 1, "b\nc": {"d\r": 1}, "e\u{9b}": [{}]});
        assert_eq!(render(&keys), "a [31m  1\nb c\n  d   1\ne \n  - none\n");
    }

    #[test]
    fn secrets_are_blotted_out_wherever_they_stand() {
        for (text, clean) in [
            (format!("bearer=\"Bearer {SECRET}\" end"), "bearer=\"Bearer [redacted]\" end"),
            (SECRET.to_owned(), "[redacted]"),
            (format!("é{SECRET}é{SECRET}"), "é[redacted]é[redacted]"),
            ("GET /v1/events?token=short&x=1".to_owned(), "GET /v1/events?token=[redacted]&x=1"),
            ("{\"path\":\"/e?page_token=a%20b\"}".to_owned(), "{\"path\":\"/e?page_token=[redacted]\"}"),
            (format!("token={SECRET}"), "token=[redacted]"),
            (format!("/v1/x%2F{SECRET} /x_{SECRET}.html"), "/v1/[redacted] /[redacted].html"),
            (format!("{SECRET}_token=short&"), "[redacted]&"),
            (SECRET.replace('F', "+"), "[redacted]"),
        ] {
            assert_eq!(redact(&text), clean);
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for text in [
            "id=5f0c2a9be17d4836a1c04f9d2e6b8370 pid=4242".to_owned(),
            "tokens 3, token: none".to_owned(),
            SECRET[1..].to_owned(),
            "registration.json.tmp-5f0c2a9be17d4836a1c04f9d2e6b8370".to_owned(),
            "é=ü".to_owned(),
            String::new(),
        ] {
            assert_eq!(redact(&text), text);
        }
    }

    fn decoded(text: &str) -> String {
        let mut parts = text.split('%');
        let mut decoded = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let code = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii);
            match code {
                Some(code) => decoded.extend([char::from(code).to_string().as_str(), &part[2..]]),
                None => decoded.extend(["%", part]),
            }
        }
        if decoded == text { decoded } else { self::decoded(&decoded) }
    }

    proptest! {
        #[test]
        fn no_secret_is_left_whatever_surrounds_or_encodes_it(
            secret in "[A-Za-z0-9_-]{43}",
            before in "(.*|[a-z%2F]*|token=|.*[?&]token=.*)",
            after in "(.*|[a-z%2F]*)",
            escapes in prop::collection::vec(0..5, 43),
        ) {
            let encoded: String = secret
                .bytes()
                .zip(escapes)
                .map(|(byte, escape)| match escape {
                    0 => format!("%{byte:02X}"),
                    1 => format!("%{byte:02x}"),
                    2 => format!("%25{byte:02X}"),
                    _ => char::from(byte).to_string(),
                })
                .collect();
            for text in [format!("{before}{encoded}{after}"), format!("{before}{secret}{after}")] {
                let clean = redact(&text);
                prop_assert!(matches!(clean, Cow::Owned(_)), "{text}");
                prop_assert!(!decoded(&clean).contains(&secret), "{clean}");
                prop_assert!(!clean.contains(&encoded), "{clean}");
            }
        }
    }
}
