//! Rows of the SQLite store, to and from the domain. Every column's spelling is here or in the SQL beside it.

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row, sqlite::SqliteRow};

use super::super::Error;
use crate::domain::{Operation, OperationId};

/// The columns that [`operation`] reads.
pub(super) const OPERATION: &str = "id, submission, fate";

/// An operation, from [`OPERATION`].
pub(super) fn operation(row: &SqliteRow) -> Result<Operation, Error> {
    let id: OperationId = text(row, "id")?.parse().map_err(|error| unreadable("operations.id", &error))?;
    Ok(Operation {
        id,
        submission: from_json("operations.submission", &text(row, "submission")?)?,
        state: from_json("operations.fate", &text(row, "fate")?)?,
    })
}

/// A text column that is never null.
pub(super) fn text(row: &SqliteRow, column: &str) -> Result<String, Error> {
    row.try_get(column).map_err(|error| unreadable(column, &error))
}

/// A column of any type.
pub(super) fn column<'row, T>(row: &'row SqliteRow, column: &str) -> Result<T, Error>
where
    T: sqlx::Decode<'row, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(|error| unreadable(column, &error))
}

/// A JSON column's value.
pub(super) fn from_json<T: DeserializeOwned>(what: &str, json: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| unreadable(what, &error))
}

/// A JSON column's text.
pub(super) fn to_json<T: Serialize>(what: &str, value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| unreadable(what, &error))
}

/// A moment as the store keeps it.
pub(super) fn micros(moment: Timestamp) -> i64 {
    moment.as_microsecond()
}

/// A moment from the store.
pub(super) fn moment(micros: i64) -> Result<Timestamp, Error> {
    Timestamp::from_microsecond(micros).map_err(|error| unreadable("a time", &error))
}

pub(super) fn unreadable(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Unreadable(format!("{what}: {error}"))
}
