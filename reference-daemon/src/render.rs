//! A readable rendering of JSON, for terminals and for `Accept: text/plain`.

use serde_json::{Map, Value};

/// Renders a JSON value as lines of text: the members of an object one a line, their values in one column.
pub(crate) fn render(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(members) => object(members, 0, &mut text),
        Value::Array(items) if items.iter().any(is_structured) => list(items, 0, &mut text),
        value => line(&scalar(value), &mut text),
    }
    text
}

/// Replaces control characters, which a terminal would obey, in a line of text from another source.
pub(crate) fn printable(line: &str) -> String {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::render;

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
    }
}
