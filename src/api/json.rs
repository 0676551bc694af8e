//! Strict JSON parsing of bodies: a key that occurs twice in one object is an error.
//!
//! Two readers of one body must not see different contents: what a proxy or an auditor reads could otherwise differ from
//! what is done. For the same reason the bodies of callers have no number that would not be kept; events of other systems
//! may, because the gateway does not return them. It deliberately builds a plain value; what the fields mean is checked by
//! [`super::change`].

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::problem::{Code, Problem};

/// The longest number in a sentence, in characters.
const NUMBER_SHOWN: usize = 40;

/// A JSON value in which no object has a key twice.
struct Strict(Value);

/// Parses a body in which every number is kept as it is sent.
pub(super) fn parse_exactly(body: &[u8]) -> Result<Value, Problem> {
    let value = parse(body)?;
    // Hardly any body has a number that is not a whole one of 64 bits, and those are kept.
    if !has_doubles(&value) {
        return Ok(value);
    }
    let text = str::from_utf8(body).unwrap_or_default();
    match numbers(text).find(|number| !is_kept(number)) {
        None => Ok(value),
        Some(number) => {
            let shown: String = number.chars().take(NUMBER_SHOWN).collect();
            let detail = format!(
                "The body has the number {shown}, with more digits than a double-precision number keeps; send it as a string."
            );
            Err(Problem::new(Code::MalformedJson, detail))
        }
    }
}

/// Whether a number was read as a double-precision one.
fn has_doubles(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_doubles),
        Value::Object(fields) => fields.values().any(has_doubles),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// The numbers in valid JSON, as they are written.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let apart = move |letter: char| {
        let within = quoted;
        quoted = (letter == '"' && !escaped) != quoted;
        escaped = within && letter == '\\' && !escaped;
        within || quoted || !(letter.is_ascii_digit() || matches!(letter, '-' | '+' | '.' | 'e' | 'E'))
    };
    // Of `true` and `false`, an e is left.
    text.split(apart).filter(|token| token.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
}

/// Whether a number is read as what it is. Of a double-precision number, that shows in the digits by which it is written again:
/// the fewest that stand for it. If two such are equally near, some programs write the one and some the other.
fn is_kept(number: &str) -> bool {
    let whole = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    let read: Result<f64, _> = serde_json::from_str(number);
    let written = |read: f64| [format!("{read:e}"), Value::from(read).to_string()];
    whole || read.is_ok_and(|read| written(read).iter().any(|text| significant(text) == significant(number)))
}

/// The digits of a number without leading and trailing zeros.
fn significant(number: &str) -> String {
    let digits: String =
        number.chars().take_while(|letter| !matches!(letter, 'e' | 'E')).filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').to_owned()
}

/// Parses a body.
pub(super) fn parse(body: &[u8]) -> Result<Value, Problem> {
    let parsed: Result<Strict, _> = serde_json::from_slice(body);
    parsed
        .map(|Strict(value)| value)
        .map_err(|error| Problem::new(Code::MalformedJson, format!("The body is not valid JSON: {error}.")))
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E: Error>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} occurs twice in one object")));
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(parse_exactly(&body));
        }

        #[test]
        fn what_the_gateway_writes_is_kept(numbers in prop::collection::vec(prop::num::f64::NORMAL, 1..5)) {
            let body = serde_json::to_string(&numbers).unwrap();
            prop_assert_eq!(parse_exactly(body.as_bytes()).unwrap(), serde_json::to_value(&numbers).unwrap());
        }
    }

    #[test]
    fn a_number_that_would_not_be_kept_is_refused() {
        let over = "98765432109876543210123";
        for number in [over, "18446744073709551617", "-9223372036854775809", "1e-400", "0.1000000000000000000001"] {
            for text in [number.to_owned(), format!("[true,{number}]"), format!(r#"{{"a\"b":{{"c":{number}}}}}"#)] {
                assert!(parse(text.as_bytes()).is_ok(), "events may have it: {text}");
                let problem = parse_exactly(text.as_bytes()).unwrap_err();
                assert!(problem.to_string().contains(number), "{problem}");
            }
        }
        let long = format!("1.{}", "1".repeat(5_000));
        assert!(parse_exactly(long.as_bytes()).unwrap_err().to_string().len() < 300);
        let kept = [
            "1349985057592304.2",
            "1349985057592304.3",
            "0",
            "-0",
            "0.0",
            "-0e9",
            "1.10",
            "1E2",
            "100",
            "100.00e-2",
            "0.30000000000000004",
            "1.7976931348623157e308",
            "5e-324",
            "18446744073709551615",
            "-9223372036854775808",
            "100000000000000000000",
            "9007199254740993",
        ];
        for text in kept {
            assert!(parse_exactly(text.as_bytes()).is_ok(), "{text}");
        }
        let quoted = format!(r#"{{"{over}":["\\","{over}","\"{over}",false]}}"#);
        assert_eq!(parse_exactly(quoted.as_bytes()).unwrap(), serde_json::from_str::<Value>(&quoted).unwrap());
    }

    #[test]
    fn what_is_plain_is_read_as_it_is() {
        let text = r#"{"a":[1,-2,0.5,true,null,"x"],"b":{"c":{}}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"x":{"a":1,"\u0061":2}}]"#, "{", "", "{} {}", &"[".repeat(1000)] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
