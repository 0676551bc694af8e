//! Rows of the PostgreSQL store. Their values are converted by [`super::super::rows`].

use std::time::Duration;

use sqlx::{Row, postgres::PgRow};

use super::super::{
    Error,
    rows::{self, unreadable},
};
use crate::domain::Operation;

/// An operation, from [`rows::OPERATION`].
pub(super) fn operation(row: &PgRow) -> Result<Operation, Error> {
    rows::operation(column(row, "id")?, column(row, "submission")?, column(row, "fate")?)
}

/// A column of any type.
pub(super) fn column<'row, T>(row: &'row PgRow, column: &str) -> Result<T, Error>
where
    T: sqlx::Decode<'row, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(column).map_err(|error| unreadable(column, &error))
}

/// A duration as statements take it, in microseconds.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A duration from a statement's microseconds; zero if negative.
pub(super) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
