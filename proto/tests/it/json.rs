//! JSON that every reader reads alike, against an independent judgement of the same text.

use local_daemon_proto::json::{MAX_NESTING, check};
use proptest::prelude::*;
use serde_json::{Number, Value, json};

/// Values of every kind, some of them nested more deeply than is allowed.
fn values() -> impl Strategy<Value = Value> {
    let number = any::<f64>().prop_filter_map("JSON has no others", Number::from_f64);
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        number.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let value = scalar.prop_recursive(6, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    });
    (value, prop_oneof![0..8_usize, MAX_NESTING - 8..MAX_NESTING + 8]).prop_map(|(mut value, levels)| {
        for level in 0..levels {
            value = if level % 3 == 0 { json!({ "x": value }) } else { json!([value]) };
        }
        value
    })
}

fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

fn is_accepted(text: &str) -> bool {
    check(text.as_bytes()).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn depth_alone_decides_about_text_that_a_library_writes(value in values()) {
        prop_assert_eq!(is_accepted(&value.to_string()), levels(&value) <= MAX_NESTING);
    }

    #[test]
    fn a_number_is_accepted_if_it_is_finite(text in "-?(0|[1-9][0-9]{0,20}|[1-9][0-9]{300,320})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?") {
        prop_assert_eq!(is_accepted(&text), text.parse::<f64>().unwrap().is_finite(), "{}", text);
    }

    #[test]
    fn no_key_occurs_twice_however_it_is_written(
        keys in prop::collection::vec("[a-c]{1,2}", 1..5), escaped in prop::collection::vec(any::<bool>(), 5),
    ) {
        let spelt = |(key, escaped): (&String, &bool)| {
            let spelt = |c: char| if *escaped { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
            format!("\"{}\":0", key.chars().map(spelt).collect::<String>())
        };
        let members: Vec<String> = keys.iter().zip(&escaped).map(spelt).collect();
        let mut unique = keys.clone();
        unique.sort();
        unique.dedup();
        prop_assert_eq!(is_accepted(&format!("[{{{}}}]", members.join(","))), unique.len() == keys.len());
    }

    #[test]
    fn surrogates_are_accepted_in_pairs_alone(units in prop::collection::vec(prop_oneof![0..0x80_u16, 0xd800..=0xdfff_u16], 0..6)) {
        let escapes = units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
        prop_assert_eq!(is_accepted(&format!("\"{escapes}\"")), String::from_utf16(&units).is_ok());
    }

    #[test]
    fn accepted_text_is_json(bytes in prop::collection::vec(prop::sample::select(&b"[]{}:,\"\\u0d8e1-. tnl\xff"[..]), 0..12)) {
        if check(&bytes).is_ok() {
            prop_assert!(serde_json::from_slice::<Value>(&bytes).is_ok());
        }
    }
}
