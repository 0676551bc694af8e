//! One canonical text for each JSON value.
//!
//! Keys are sorted by code point and there is no white space between tokens, so equal values have equal texts, whatever
//! order or spacing they came in. Hashes, fingerprints and comparisons use this text.
//!
//! [`text`] writes a JSON value that already exists; [`Object`] serialises a type directly.
//!
//! It deliberately does not unify numbers: `1` and `1.0` stay two texts. What is hashed here holds whole numbers only, or is
//! compared with itself.

mod object;

use serde::Serialize;
use serde_json::{Map, Value};

pub use self::object::Object;

/// The canonical text of a value.
pub fn text(value: &Value) -> String {
    written(|text| write(text, value))
}

/// The canonical text of an object with these fields.
pub fn object(fields: &Map<String, Value>) -> String {
    written(|text| write_object(text, fields))
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut text = Vec::with_capacity(USUAL);
    write(&mut text);
    // serde_json writes valid UTF-8; if it did not, the invalid bytes would be replaced and the rest kept.
    String::from_utf8(text).unwrap_or_else(|other| String::from_utf8_lossy(other.as_bytes()).into_owned())
}

/// Initial capacity in bytes; most texts are shorter.
const USUAL: usize = 1024;

fn write(text: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Object(fields) => write_object(text, fields),
        Value::Array(items) => {
            let mut before = b'[';
            for item in items {
                text.push(before);
                before = b',';
                write(text, item);
            }
            text.extend(if items.is_empty() { b"[]".as_slice() } else { b"]" });
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => write_plain(text, value),
    }
}

fn write_object(text: &mut Vec<u8>, fields: &Map<String, Value>) {
    text.push(b'{');
    let mut members: Vec<_> = fields.iter().collect();
    members.sort_unstable_by_key(|(key, _)| *key);
    for (place, (key, value)) in members.into_iter().enumerate() {
        if place > 0 {
            text.push(b',');
        }
        write_plain(text, key);
        text.push(b':');
        write(text, value);
    }
    text.push(b'}');
}

fn write_plain(text: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Writing a scalar to memory cannot fail.
    drop(serde_json::to_writer(text, value));
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
    fn what_is_empty_is_written_too() {
        let value: Value = serde_json::from_str(r#"{ "b": [ ], "a": { }, "": [{}, []] }"#).unwrap();
        assert_eq!(text(&value), r#"{"":[{},[]],"a":{},"b":[]}"#);
        assert_eq!(object(value.as_object().unwrap()), text(&value));
    }

    #[test]
    fn a_fraction_keeps_its_last_digit() {
        for number in ["4.4073700773700737e+39", "0.1", "7.370955161637096e+20"] {
            let value: Value = serde_json::from_str(number).unwrap();
            assert_eq!(text(&value), number);
        }
    }
}
