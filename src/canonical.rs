//! One text for one JSON value.
//!
//! Keys are sorted by code point and nothing stands between the tokens, so equal values have equal texts whatever order
//! or spacing they came in. Hashes, fingerprints and comparisons are made over this text.
//!
//! It deliberately does not respell numbers: two spellings of one fraction stay two texts. What is hashed here holds
//! whole numbers only, or is compared with itself.

use std::collections::BTreeMap;

use serde_json::Value;

/// The canonical text of a value.
pub fn text(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            let field = |(key, value): (&String, &Value)| format!("{}:{}", Value::from(key.as_str()), text(value));
            format!("{{{}}}", sorted.into_iter().map(field).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(",")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_spaces_are_gone() {
        let value: Value = serde_json::from_str(r#"{ "b": [1, {"z": null, "a": "\u00e9"}], "a": true }"#).unwrap();
        assert_eq!(text(&value), "{\"a\":true,\"b\":[1,{\"a\":\"\u{e9}\",\"z\":null}]}");
    }

    #[test]
    fn a_fraction_keeps_its_last_digit() {
        for number in ["4.4073700773700737e+39", "0.1", "7.370955161637096e+20"] {
            let value: Value = serde_json::from_str(number).unwrap();
            assert_eq!(text(&value), number);
        }
    }
}
