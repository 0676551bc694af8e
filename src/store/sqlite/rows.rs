//! Statements and rows of SQLite. Their values are converted by [`super::super::rows`].
//!
//! Statements are prepared once for each connection and kept: parsing one takes longer than most take to run.

use rusqlite::{
    Connection, Params, Row,
    types::{FromSql, Value},
};

use super::{
    super::{
        Error,
        rows::{self, unreadable},
    },
    unavailable,
};
use crate::domain::Operation;

/// The bound values of a statement that is put together from parts.
#[derive(Debug, Default)]
pub(super) struct Search {
    pub(super) values: Vec<Value>,
}

impl Search {
    /// Adds a value, and returns its placeholder in the statement.
    pub(super) fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
    }
}

/// Runs a statement that changes rows, and returns how many.
pub(super) fn change(connection: &Connection, sql: &str, values: impl Params) -> Result<usize, Error> {
    tracing::trace!(sql, "statement");
    connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map_err(unavailable)
}

/// All rows that a statement returns, each read by `read`.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    tracing::trace!(sql, "statement");
    let mut statement = connection.prepare_cached(sql).map_err(unavailable)?;
    let mut rows = statement.query(values).map_err(unavailable)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(unavailable)? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The row that a statement returns, which must be one at most.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    Ok(all(connection, sql, values, read)?.pop())
}

/// The columns that [`operation`] needs. An operation that a lane has taken up is stored as queued, with a row in `running`.
pub(super) const OPERATION: &str = "id, submission, fate,
    (SELECT started_at FROM running WHERE running.position = operations.position) AS started_at";

/// An operation, from [`OPERATION`].
pub(super) fn operation(row: &Row<'_>) -> Result<Operation, Error> {
    let Operation { id, submission, state } =
        rows::operation(text(row, "id")?, text(row, "submission")?, text(row, "fate")?)?;
    let started_at: Option<i64> = column(row, "started_at")?;
    let state = match started_at {
        Some(at) => state.start(rows::moment(at)?).map_err(|error| unreadable("operations.fate", &error))?,
        None => state,
    };
    Ok(Operation { id, submission, state })
}

/// A text column that is never null.
pub(super) fn text<'row>(row: &'row Row<'_>, column: &str) -> Result<&'row str, Error> {
    optional_text(row, column)?.ok_or_else(|| unreadable(column, &"it is null"))
}

/// A text column.
pub(super) fn optional_text<'row>(row: &'row Row<'_>, column: &str) -> Result<Option<&'row str>, Error> {
    let value = row.get_ref(column).map_err(|error| unreadable(column, &error))?;
    value.as_str_or_null().map_err(|error| unreadable(column, &error))
}

/// A column of any other type.
pub(super) fn column<T: FromSql>(row: &Row<'_>, column: &str) -> Result<T, Error> {
    row.get(column).map_err(|error| unreadable(column, &error))
}
