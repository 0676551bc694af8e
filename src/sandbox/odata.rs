//! The query options that the sandbox supports, and pages of rows.
//!
//! A [`Query`] holds `$filter` (one clause: `eq`, `in`, `startswith`), `$select`, `$top`, `$expand`, `$orderby` and where
//! the page begins. Options that an endpoint does not know are refused with 400, never ignored.
//!
//! Next links are absolute and opaque. It deliberately has no `and`, `or` or `$search`, and each page is cut from the rows
//! as they are at that call. Called by `graph.rs` and `directory.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::errors::Refusal;
use super::wire::Request;

/// The options of a call.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pub(crate) clause: Option<Clause>,
    pub(crate) expand: Option<String>,
    pub(crate) order: Option<String>,
    pub(crate) top: Option<usize>,
    select: Option<Vec<String>>,
    skip: usize,
}

/// A `$filter` of one clause.
#[derive(Debug)]
pub(crate) struct Clause {
    pub(crate) field: String,
    pub(crate) test: Test,
    pub(crate) values: Vec<String>,
}

/// How a clause compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Equal,
    OneOf,
    StartsWith,
}

impl Clause {
    /// Whether a row's field, as text, matches. Case does not matter, as in the directory.
    pub(crate) fn passes(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        self.values.iter().map(|value| value.to_lowercase()).any(|value| match self.test {
            Test::Equal | Test::OneOf => text == value,
            Test::StartsWith => text.starts_with(&value),
        })
    }
}

impl Query {
    /// Parses the options of a call to an endpoint that knows these.
    pub(crate) fn of(call: &Request, known: &[&str]) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for (name, value) in call.options().into_iter().filter(|(name, _)| name.starts_with('$')) {
            if !known.contains(&name.as_str()) {
                return Err(unsupported(format!("The query option '{name}' is not supported here.")));
            }
            query.set(&name, value)?;
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), Refusal> {
        match name {
            "$filter" => self.clause = Some(clause(&value).ok_or_else(|| invalid_filter(&value))?),
            "$select" => self.select = Some(value.split(',').map(|field| field.trim().to_owned()).collect()),
            "$top" => self.top = Some(top(&value)?),
            "$skiptoken" => self.skip = skip(&value)?,
            "$expand" => self.expand = Some(value),
            _ => self.order = Some(value),
        }
        Ok(())
    }

    /// The selected fields of a row; `id` and OData's annotations are always kept.
    pub(crate) fn selected(&self, row: Map<String, Value>) -> Value {
        match &self.select {
            None => Value::Object(row),
            Some(fields) => {
                let kept = |name: &str| name.contains('@') || name == "id" || fields.iter().any(|field| field == name);
                Value::Object(row.into_iter().filter(|(name, _)| kept(name)).collect())
            }
        }
    }

    /// One page of these rows, with a link on `origin` to the next page if there is one.
    pub(crate) fn page(
        &self,
        rows: Vec<Value>,
        size: Option<usize>,
        origin: &str,
        call: &Request,
    ) -> Map<String, Value> {
        let size = self.top.or(size).unwrap_or(usize::MAX);
        let next = self.skip.saturating_add(size);
        let more = rows.len() > next;
        let mut page = Map::new();
        page.insert("value".to_owned(), rows.into_iter().skip(self.skip).take(size).collect());
        if more {
            page.insert("@odata.nextLink".to_owned(), json!(next_link(origin, next, call)));
        }
        page
    }
}

fn next_link(origin: &str, skip: usize, call: &Request) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(call.options().iter().filter(|(name, _)| name != "$skiptoken"));
    query.append_pair("$skiptoken", &URL_SAFE_NO_PAD.encode(format!("{PAGE}{skip}")));
    format!("{origin}{}?{}", call.path, query.finish())
}

/// Prefix of a skip token before encoding, by which made-up tokens are detected.
const PAGE: &str = "page:";

fn skip(token: &str) -> Result<usize, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
    let written = String::from_utf8_lossy(&bytes);
    let skip = written.strip_prefix(PAGE).and_then(|number| number.parse().ok());
    skip.ok_or_else(|| unsupported("The skip token is not valid."))
}

fn top(value: &str) -> Result<usize, Refusal> {
    match value.parse() {
        Ok(top @ 1..=999) => Ok(top),
        _ => Err(unsupported(format!("Invalid page size specified: '{value}'. Must be between 1 and 999 inclusive."))),
    }
}

/// The directory's refusal of a query.
pub(crate) fn unsupported(message: impl Into<String>) -> Refusal {
    Refusal::graph(400, "Request_UnsupportedQuery", message)
}

fn invalid_filter(text: &str) -> Refusal {
    Refusal::graph(400, "BadRequest", format!("Invalid filter clause: '{text}'."))
}

fn clause(text: &str) -> Option<Clause> {
    let text = text.trim();
    if let Some(inner) = text.strip_prefix("startswith(") {
        let (field, rest) = inner.split_once(',')?;
        return literals(field, Test::StartsWith, rest.strip_suffix(')')?);
    }
    let (field, rest) = text.split_once(' ')?;
    match rest.trim_start().split_once([' ', '('])? {
        ("eq", value) => literals(field, Test::Equal, value),
        ("in", values) => {
            let values = values.trim();
            literals(field, Test::OneOf, values.strip_prefix('(').unwrap_or(values).strip_suffix(')')?)
        }
        _ => None,
    }
}

fn literals(field: &str, test: Test, list: &str) -> Option<Clause> {
    let mut values = Vec::new();
    let mut rest = list;
    loop {
        let (value, after) = literal(rest.trim_start())?;
        values.push(value);
        match after.trim_start().strip_prefix(',') {
            Some(more) => rest = more,
            None if after.trim().is_empty() => break,
            None => return None,
        }
    }
    let fits = test == Test::OneOf || values.len() == 1;
    fits.then(|| Clause { field: field.trim().to_owned(), test, values })
}

fn literal(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('\'') else {
        let end = text.find(',').unwrap_or(text.len());
        let (number, after) = text.split_at_checked(end)?;
        return number.trim().parse::<i64>().ok().map(|number| (number.to_string(), after));
    };
    let mut value = String::new();
    loop {
        let (before, after) = rest.split_once('\'')?;
        value.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled_and_commas_may_stand_inside() {
        let clause = clause("id in ('a','O''Neill, Sales' , 'c')").unwrap();
        assert_eq!(clause.values, ["a", "O'Neill, Sales", "c"]);
    }

    #[test]
    fn what_is_not_one_clause_is_no_clause() {
        for text in
            ["", "id", "id eq", "id eq 'a", "id eq 'a' or id eq 'b'", "id ne 'a'", "id in ('a'", "id eq 'a','b'"]
        {
            assert!(clause(text).is_none(), "{text}");
        }
    }
}
