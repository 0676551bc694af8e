//! The canonical text of a type that serialises as an object, without building a JSON value first.
//!
//! `serde_json` writes; the formatter records where members begin and end, and sorts an object's when it is complete.
//!
//! It deliberately sorts keys as written, so they must need no escaping; field names need none. Duplicates stay.

use std::{cell::RefCell, io, ops::Range, rc::Rc};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::USUAL;

/// The canonical text of an object, and where its members are in it.
#[derive(Debug, Default)]
pub struct Object {
    text: String,
    members: Vec<Member>,
}

/// Where a member is in the text.
#[derive(Clone, Debug, Default)]
struct Member {
    /// Its key, without the quotes.
    key: Range<usize>,
    /// The first eight bytes of the key: comparing these decides most comparisons without reading the text.
    initials: u64,
    value: Range<usize>,
}

impl Object {
    /// Serialises a value; an error if one of its maps has keys that are not strings. Other values have no members.
    pub fn of(value: &impl Serialize) -> serde_json::Result<Self> {
        let page = Page(Rc::new(RefCell::new(Written { text: Vec::with_capacity(USUAL), ..Written::default() })));
        value.serialize(&mut Serializer::with_formatter(page.clone(), page.clone()))?;
        let Written { text, whole, .. } = page.0.take();
        let text = String::from_utf8(text).map_err(|other| serde_json::Error::io(io::Error::other(other)))?;
        Ok(Self { text, members: whole })
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of a member's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        let member = self.members.iter().find(|member| self.part(&member.key) == key)?;
        Some(self.part(&member.value))
    }

    /// The text of the object with one more member, given the text of its value.
    pub fn with(&self, key: &str, value: &str) -> String {
        let next = self.members.iter().find(|member| self.part(&member.key) > key);
        let place = next.map_or(self.text.len(), |next| next.key.start).saturating_sub(1);
        let (before, after) = self.text.split_at_checked(place).unwrap_or((&self.text, ""));
        let (first, last) = (before.ends_with('{'), next.is_none());
        let comma = |needed: bool| if needed { "," } else { "" };
        [before, comma(last && !first), "\"", key, "\":", value, comma(!last), after].concat()
    }

    fn part(&self, range: &Range<usize>) -> &str {
        self.text.get(range.clone()).unwrap_or_default()
    }
}

/// What has been written so far.
#[derive(Debug, Default)]
struct Written {
    text: Vec<u8>,
    /// The members so far of each object that is still open.
    open: Vec<Vec<Member>>,
    /// The members of the outermost object, once it is complete.
    whole: Vec<Member>,
}

impl Written {
    /// The member that is being written, and the length of the text so far.
    fn member(&mut self) -> Option<(usize, &mut Member)> {
        Some((self.text.len(), self.open.last_mut()?.last_mut()?))
    }

    /// Ends the key of the member that is being written, after its closing quote.
    fn end_key(&mut self) {
        let Some(member) = self.open.last_mut().and_then(|members| members.last_mut()) else { return };
        member.key.end = self.text.len().saturating_sub(1);
        let mut initials = [0; 8];
        for (initial, byte) in initials.iter_mut().zip(self.text.get(member.key.clone()).unwrap_or_default()) {
            *initial = *byte;
        }
        member.initials = u64::from_be_bytes(initials);
    }

    /// Ends an object: sorts its members and writes the commas between them, which are missing until now.
    fn complete(&mut self) {
        let mut members = self.open.pop().unwrap_or_default();
        if let Some(first) = members.first() {
            let start = first.key.start.saturating_sub(1);
            let unsorted = self.text.split_off(start);
            let part = |range: &Range<usize>| {
                unsorted.get(range.start.saturating_sub(start)..range.end.saturating_sub(start)).unwrap_or_default()
            };
            members.sort_by(|one, other| {
                let initials = one.initials.cmp(&other.initials);
                initials.then_with(|| part(&one.key).cmp(part(&other.key)))
            });
            for (place, member) in members.iter_mut().enumerate() {
                if place > 0 {
                    self.text.push(b',');
                }
                let (key, value) = (part(&member.key), part(&member.value));
                self.text.push(b'"');
                member.key = put(&mut self.text, key);
                self.text.extend(b"\":");
                member.value = put(&mut self.text, value);
            }
        }
        self.text.push(b'}');
        if self.open.is_empty() && self.text.starts_with(b"{") {
            self.whole = members;
        }
    }
}

/// Appends a part and returns where it is.
fn put(text: &mut Vec<u8>, part: &[u8]) -> Range<usize> {
    let start = text.len();
    text.extend(part);
    start..text.len()
}

/// The writer and formatter of `serde_json`.
#[derive(Clone, Debug)]
struct Page(Rc<RefCell<Written>>);

impl io::Write for Page {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().text.extend(buf);
        Ok(buf.len())
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.write(buf).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Formatter for Page {
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.borrow_mut().open.push(Vec::new());
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.0.borrow_mut().complete();
        Ok(())
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, _writer: &mut W, _first: bool) -> io::Result<()> {
        let mut written = self.0.borrow_mut();
        // After the opening quote, which follows.
        let start = written.text.len().saturating_add(1);
        if let Some(members) = written.open.last_mut() {
            members.push(Member { key: start..start, ..Member::default() });
        }
        Ok(())
    }

    fn end_object_key<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.0.borrow_mut().end_key();
        Ok(())
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        // The colon is written by `complete`, once the members are sorted.
        if let Some((start, member)) = self.0.borrow_mut().member() {
            member.value = start..start;
        }
        Ok(())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        if let Some((end, member)) = self.0.borrow_mut().member() {
            member.value.end = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{super::text, *};

    /// Short names, and long ones with a common beginning.
    const KEYS: &str = "(previous){0,1}[a-z_@$!]{0,4}";

    /// JSON without fractions, whose keys are names.
    fn values() -> impl Strategy<Value = Value> {
        let plain = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        plain.prop_recursive(4, 40, 6, |inner| {
            let fields = prop::collection::hash_map(KEYS, inner.clone(), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(Value::from),
                fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_the_text_of_the_value(fields in prop::collection::hash_map(KEYS, values(), 0..6), more in values()) {
            let whole = Value::Object(fields.clone().into_iter().collect());
            let object = Object::of(&fields).unwrap();
            prop_assert_eq!(object.text(), text(&whole));
            for (key, value) in &fields {
                prop_assert_eq!(object.get(key).map(str::to_owned), Some(text(value)));
            }
            prop_assert_eq!(object.get("nothing is called so"), None);
            for key in ["", "hash", "~"] {
                let mut with = fields.clone();
                if with.insert(key.to_owned(), more.clone()).is_none() {
                    let with = Value::Object(with.into_iter().collect());
                    prop_assert_eq!(object.with(key, &text(&more)), text(&with));
                }
            }
        }
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        let list = Object::of(&json!([{"b": 1, "a": 2}])).unwrap();
        assert_eq!((list.text(), list.members.len()), (r#"[{"a":2,"b":1}]"#, 0));
        assert!(Object::of(&BTreeMap::from([((1, 2), 3)])).is_err(), "its keys are no texts");
    }
}
