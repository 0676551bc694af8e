//! What the SQLite store is asked without changing it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{
        Backlog, Due, Error, Parked, Query, Sequel,
        callbacks::Standing,
        rows::{self as columns, CALLBACK, OPERATION, count, micros, moment, progress, unreadable, until_state},
        until::REVERSALS_MAX,
    },
    callbacks, rows, unavailable,
};
use crate::domain::{ConfigurationId, Operation, OperationId};

pub(super) async fn operation(connection: &mut SqliteConnection, id: OperationId) -> Result<Option<Operation>, Error> {
    let sql = format!("SELECT {OPERATION} FROM operations WHERE id = ?");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(connection).await;
    row.map_err(unavailable)?.as_ref().map(rows::operation).transpose()
}

pub(super) async fn operations(connection: &mut SqliteConnection, query: &Query) -> Result<Vec<Operation>, Error> {
    let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(format!("SELECT {OPERATION} FROM operations WHERE 1"));
    let configuration = query.configuration.as_ref().map(ConfigurationId::as_str);
    let equals = [
        ("ticket", query.ticket.as_deref()),
        ("configuration", configuration),
        ("caller", query.caller.as_deref()),
        ("state", query.state.as_deref()),
    ];
    for (column, value) in equals {
        if let Some(value) = value {
            sql.push(format!(" AND {column} = ")).push_bind(value);
        }
    }
    if let Some(after) = query.after {
        sql.push(" AND position < (SELECT position FROM operations WHERE id = ").push_bind(after.to_string()).push(")");
    }
    sql.push(" ORDER BY position DESC LIMIT ").push_bind(count(query.limit));
    let found = sql.build().fetch_all(connection).await.map_err(unavailable)?;
    found.iter().map(rows::operation).collect()
}

pub(super) async fn due(connection: &mut SqliteConnection, due: &Due) -> Result<Vec<Operation>, Error> {
    let after = due.after.map(|(at, id)| (micros(at), id.to_string()));
    let (at, id) = after.unwrap_or((i64::MIN, String::new()));
    let sql = format!(
        "SELECT {OPERATION} FROM operations WHERE until_at <= ? AND (until_at, id) > (?, ?)
         ORDER BY until_at, id LIMIT ?"
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(micros(due.by)).bind(at).bind(id).bind(count(due.limit));
    found.fetch_all(connection).await.map_err(unavailable)?.iter().map(rows::operation).collect()
}

pub(super) async fn sequel(connection: &mut SqliteConnection, id: OperationId) -> Result<Sequel, Error> {
    let sql = format!("SELECT until_at, until_state, callback_due, {CALLBACK} FROM operations WHERE id = ?");
    let own = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(&mut *connection).await;
    let own = own.map_err(unavailable)?;
    let state = |row| until_state(rows::column(row, "until_at")?, rows::column(row, "until_state")?);
    let until = own.as_ref().map(state).transpose()?.flatten();
    let callback = own.as_ref().map(callback).transpose()?.flatten();
    let sql = format!("SELECT {OPERATION} FROM operations WHERE reverts = ? ORDER BY position DESC LIMIT ?");
    let reversals = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(count(REVERSALS_MAX));
    let reversals = reversals.fetch_all(connection).await.map_err(unavailable)?;
    Ok(Sequel { callback, until, reversals: reversals.iter().map(rows::operation).collect::<Result<_, _>>()? })
}

fn callback(row: &SqliteRow) -> Result<Option<Standing>, Error> {
    let under_way: bool = rows::column(row, "callback_under_way")?;
    let due: Option<i64> = rows::column(row, "callback_due")?;
    let due = due.filter(|_| !under_way).map(moment).transpose()?;
    let progress = progress(rows::column(row, "callback_progress")?)?;
    columns::callback(rows::column(row, "callback_state")?, rows::column(row, "callback_attempts")?, progress, due)
}

pub(super) async fn parked(
    connection: &mut SqliteConnection,
    configuration: &ConfigurationId,
) -> Result<Option<Parked>, Error> {
    let row = sqlx::query(
        "SELECT parked_because, not_before, attempts FROM lanes
         WHERE configuration = ? AND parked_because IS NOT NULL AND not_before IS NOT NULL",
    )
    .bind(configuration.as_str())
    .fetch_optional(connection)
    .await
    .map_err(unavailable)?;
    let parked = |row| {
        Ok(Parked {
            because: rows::text(&row, "parked_because")?,
            until: moment(rows::column(&row, "not_before")?)?,
            attempts: rows::column(&row, "attempts")?,
        })
    };
    row.map(parked).transpose()
}

pub(super) async fn open_lanes(
    connection: &mut SqliteConnection,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<ConfigurationId>, Error> {
    let found = sqlx::query(
        "SELECT DISTINCT configuration FROM operations
         WHERE state IN ('queued', 'running') AND configuration NOT IN (
             SELECT configuration FROM lanes WHERE lease_until > ?1 OR not_before > ?1)
         LIMIT ?2",
    )
    .bind(micros(now))
    .bind(count(limit))
    .fetch_all(connection)
    .await
    .map_err(unavailable)?;
    let id = |row| rows::text(row, "configuration")?.parse().map_err(|error| unreadable("configuration", &error));
    found.iter().map(id).collect()
}

/// How much has not ended, since when the oldest waits of what may begin, and what was not told.
pub(super) async fn backlog(connection: &mut SqliteConnection) -> Result<Backlog, Error> {
    let found = sqlx::query(
        "SELECT state, COUNT(*) AS operations, MIN(position) AS oldest FROM operations
         WHERE state IN ('queued', 'running') GROUP BY state
         UNION ALL
         SELECT state, COUNT(*), NULL FROM operations WHERE state = 'awaiting_approval' GROUP BY state",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(unavailable)?;
    let (mut states, mut oldest) = (BTreeMap::new(), None::<i64>);
    for row in &found {
        let (operations, first): (i64, Option<i64>) = (rows::column(row, "operations")?, rows::column(row, "oldest")?);
        states.insert(rows::text(row, "state")?, u64::try_from(operations).unwrap_or(0));
        oldest = oldest.into_iter().chain(first).min();
    }
    let sql = format!("SELECT {OPERATION} FROM operations WHERE position = ?");
    let row =
        sqlx::query(AssertSqlSafe(sql)).bind(oldest).fetch_optional(&mut *connection).await.map_err(unavailable)?;
    // It may have ended, and been removed, since it was counted.
    let oldest = row.as_ref().map(rows::operation).transpose()?.map(|oldest| oldest.submission.ready_at());
    // One that was tried again and has not settled since is told as parked, too.
    let parked = sqlx::query_scalar(
        "SELECT COUNT(DISTINCT configuration) FROM operations
         WHERE state IN ('queued', 'running')
           AND configuration IN (SELECT configuration FROM lanes WHERE parked_because IS NOT NULL)",
    );
    let parked: i64 = parked.fetch_one(&mut *connection).await.map_err(unavailable)?;
    let callbacks = callbacks::undelivered(connection).await?;
    Ok(Backlog { states, parked: u64::try_from(parked).unwrap_or(0), oldest, callbacks })
}

pub(super) async fn unanswered(
    connection: &mut SqliteConnection,
    at: Timestamp,
    limit: usize,
) -> Result<Vec<OperationId>, Error> {
    let sql = "SELECT id FROM operations WHERE state = 'awaiting_approval' AND approval_until <= ? LIMIT ?";
    let found = sqlx::query(sql).bind(micros(at)).bind(count(limit)).fetch_all(connection).await;
    let id = |row| rows::text(row, "id")?.parse().map_err(|error| unreadable("operations.id", &error));
    found.map_err(unavailable)?.iter().map(id).collect()
}
