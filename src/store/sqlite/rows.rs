//! Rows of the SQLite store. What stands in them is in [`super::super::rows`].

use sqlx::{Row, sqlite::SqliteRow};

use super::super::{
    Error,
    rows::{self, unreadable},
};
use crate::domain::Operation;

/// An operation, from [`rows::OPERATION`].
pub(super) fn operation(row: &SqliteRow) -> Result<Operation, Error> {
    rows::operation(column(row, "id")?, column(row, "submission")?, column(row, "fate")?)
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
