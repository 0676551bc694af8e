//! The SQL of the reading verbs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, QueryBuilder, postgres::PgRow};

use super::{
    super::{
        Backlog, DueQuery, Error, FollowUps, IdempotencyKey, Parked, Query,
        callbacks::Status,
        rows::{self as columns, CALLBACK, OPERATION, count, micros, progress, seen, unreadable, until_state},
        until::{REVERSALS_MAX, REVERTED_MAX},
    },
    Accepted, callbacks, rows, unavailable,
};
use crate::{
    clock::{self, Clock},
    domain::{ConfigurationId, Operation, OperationId},
};

pub(super) async fn operation(connection: &mut PgConnection, id: OperationId) -> Result<Option<Operation>, Error> {
    let sql = format!("SELECT {OPERATION} FROM operations WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(connection).await;
    row.map_err(unavailable)?.as_ref().map(rows::operation).transpose()
}

pub(super) async fn operations(connection: &mut PgConnection, query: &Query) -> Result<Vec<Operation>, Error> {
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(format!("SELECT {OPERATION} FROM operations WHERE true"));
    let configuration = query.configuration.as_ref().map(ConfigurationId::as_str);
    let equals =
        [("ticket", query.ticket.as_deref()), ("configuration", configuration), ("caller", query.caller.as_deref())];
    for (column, value) in equals {
        if let Some(value) = value {
            sql.push(format!(" AND {column} = ")).push_bind(value);
        }
    }
    let order = query.state.as_deref().map_or("position", |state| in_state(&mut sql, state));
    if let Some(after) = query.after {
        // If that one was removed since, the list continues at the next older id; ids are nearly in order of acceptance.
        sql.push(" AND position < coalesce((SELECT position FROM operations WHERE id = ").push_bind(after.to_string());
        sql.push("), (SELECT position + 1 FROM operations WHERE id < ").push_bind(after.to_string());
        sql.push(" ORDER BY id DESC LIMIT 1), 0)");
    }
    sql.push(format!(" ORDER BY {order} DESC LIMIT ")).push_bind(count(query.limit));
    let found = sql.build().fetch_all(connection).await.map_err(unavailable)?;
    found.iter().map(rows::operation).collect()
}

/// The condition of a state, and by what to order what is in it. A state in which few operations are stands in the statement
/// itself: the server takes the index of these few only then, once it plans for any values. By the mere position it would
/// still go through all that ever was, in that order, where it takes what is pending to be much; sorted is what is pending
/// at once.
fn in_state(sql: &mut QueryBuilder<Postgres>, state: &str) -> &'static str {
    let (condition, order) = match state {
        "awaiting_approval" => ("state = 'awaiting_approval'", "position + 0"),
        "queued" => ("state = 'queued'", "position + 0"),
        "running" => ("state = 'running'", "position + 0"),
        "failed" => ("state = 'failed'", "position"),
        "cancelled" => ("state = 'cancelled'", "position"),
        other => {
            sql.push(" AND state = ").push_bind(other.to_owned());
            return "position";
        }
    };
    sql.push(" AND ").push(condition);
    order
}

/// What a key stands for, if it is known and has not expired.
pub(super) async fn find_by_key(
    connection: &mut PgConnection,
    caller: &str,
    key: &IdempotencyKey,
) -> Result<Option<Accepted>, Error> {
    let known = sqlx::query(
        "SELECT fingerprint, id, submission, fate FROM idempotency_keys JOIN operations ON id = operation
         WHERE idempotency_keys.caller = $1 AND key = $2 AND expires_at > $3",
    )
    .bind(caller)
    .bind(&key.key)
    .bind(micros(key.used_at))
    .fetch_optional(connection)
    .await
    .map_err(unavailable)?;
    let Some(known) = known else { return Ok(None) };
    let operation = rows::operation(&known)?;
    let same = rows::column::<&str>(&known, "fingerprint")? == key.fingerprint.as_str();
    Ok(Some(if same { Accepted::Replayed(Box::new(operation)) } else { Accepted::KeyReused(operation.id) }))
}

pub(super) async fn due_untils(connection: &mut PgConnection, due: &DueQuery) -> Result<Vec<Operation>, Error> {
    let after = due.after.map(|(at, id)| (micros(at), id.to_string()));
    let (at, id) = after.unwrap_or((i64::MIN, String::new()));
    let sql = format!(
        "SELECT {OPERATION} FROM operations WHERE until_at <= $1 AND (until_at, id) > ($2, $3)
         ORDER BY until_at, id LIMIT $4"
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(micros(due.by)).bind(at).bind(id).bind(count(due.limit));
    found.fetch_all(connection).await.map_err(unavailable)?.iter().map(rows::operation).collect()
}

pub(super) async fn follow_ups(
    connection: &mut PgConnection,
    id: OperationId,
    clock: Clock,
) -> Result<FollowUps, Error> {
    let sql = format!(
        "SELECT until_at, until_state, {CALLBACK},
                (EXTRACT(EPOCH FROM callback_due - clock_timestamp()) * 1000000)::BIGINT AS callback_pause
         FROM operations WHERE id = $1"
    );
    let own = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(&mut *connection).await;
    let own = own.map_err(unavailable)?;
    let state = |row| until_state(rows::column(row, "until_at")?, rows::column(row, "until_state")?);
    let until = own.as_ref().map(state).transpose()?.flatten();
    let callback = own.as_ref().map(|row| callback(row, clock)).transpose()?.flatten();
    let sql = format!("SELECT {OPERATION} FROM operations WHERE reverts = $1 ORDER BY position DESC LIMIT $2");
    let reversals = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(count(REVERSALS_MAX));
    let reversals = reversals.fetch_all(connection).await.map_err(unavailable)?;
    Ok(FollowUps { callback, until, reversals: reversals.iter().map(rows::operation).collect::<Result<_, _>>()? })
}

pub(super) async fn reverted_since(
    connection: &mut PgConnection,
    id: OperationId,
    configuration: &ConfigurationId,
) -> Result<Vec<Operation>, Error> {
    let sql = format!(
        "WITH own AS (SELECT ended_at, position FROM operations WHERE id = $2)
         SELECT {OPERATION} FROM operations WHERE id IN (
             SELECT undoing.reverts FROM operations AS undoing
             WHERE undoing.reverts IS NOT NULL AND undoing.configuration = $1
                 AND (undoing.state IN ('queued', 'running')
                      OR undoing.state = 'succeeded'
                          AND (undoing.ended_at, undoing.position) > (SELECT ended_at, position FROM own))
                 AND NOT EXISTS (
                     SELECT FROM operations AS redoing
                     WHERE redoing.reverts = undoing.id AND redoing.state IN ('queued', 'running', 'succeeded') AND NOT EXISTS (
                         SELECT FROM operations AS again
                         WHERE again.reverts = redoing.id AND again.state IN ('queued', 'running', 'succeeded') AND NOT EXISTS (
                             SELECT FROM operations AS last
                             WHERE last.reverts = again.id AND last.state IN ('queued', 'running', 'succeeded')))))
             AND (ended_at, position) < (SELECT ended_at, position FROM own)
         ORDER BY ended_at DESC, position DESC LIMIT $3"
    );
    let found =
        sqlx::query(AssertSqlSafe(sql)).bind(configuration.as_str()).bind(id.to_string()).bind(count(REVERTED_MAX));
    found.fetch_all(connection).await.map_err(unavailable)?.iter().map(rows::operation).collect()
}

fn callback(row: &PgRow, clock: Clock) -> Result<Option<Status>, Error> {
    let under_way: bool = rows::column(row, "callback_under_way")?;
    let pause: Option<i64> = rows::column(row, "callback_pause")?;
    let due = pause.filter(|_| !under_way).map(|pause| clock::after(clock.now(), rows::duration(pause)));
    let progress = progress(rows::column(row, "callback_progress")?)?;
    columns::callback(rows::column(row, "callback_state")?, rows::column(row, "callback_attempts")?, progress, due)
}

pub(super) async fn parked(
    connection: &mut PgConnection,
    configuration: &ConfigurationId,
    clock: Clock,
) -> Result<Option<Parked>, Error> {
    let row = sqlx::query(
        "SELECT parked_because, attempts,
                (EXTRACT(EPOCH FROM not_before - clock_timestamp()) * 1000000)::BIGINT AS pause
         FROM lanes WHERE configuration = $1 AND parked_because IS NOT NULL AND not_before IS NOT NULL",
    )
    .bind(configuration.as_str())
    .fetch_optional(connection)
    .await
    .map_err(unavailable)?;
    let parked = |row| {
        let attempts: i64 = rows::column(&row, "attempts")?;
        Ok(Parked {
            because: rows::column(&row, "parked_because")?,
            until: clock::after(clock.now(), rows::duration(rows::column(&row, "pause")?)),
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        })
    };
    row.map(parked).transpose()
}

pub(super) async fn open_lanes(connection: &mut PgConnection, limit: usize) -> Result<Vec<ConfigurationId>, Error> {
    let found = sqlx::query(
        "SELECT DISTINCT configuration FROM operations
         WHERE state IN ('queued', 'running') AND configuration NOT IN (
             SELECT configuration FROM lanes WHERE lease_until > clock_timestamp() OR not_before > clock_timestamp())
         LIMIT $1",
    )
    .bind(count(limit))
    .fetch_all(connection)
    .await
    .map_err(unavailable)?;
    let id = |row| rows::column::<&str>(row, "configuration")?.parse().map_err(|it| unreadable("configuration", &it));
    found.iter().map(id).collect()
}

/// Counts what has not ended, since when the oldest that may begin has waited, and what is not delivered.
pub(super) async fn backlog(connection: &mut PgConnection) -> Result<Backlog, Error> {
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
        states.insert(rows::column(row, "state")?, u64::try_from(operations).unwrap_or(0));
        oldest = oldest.into_iter().chain(first).min();
    }
    let sql = format!("SELECT {OPERATION} FROM operations WHERE position = $1");
    let row =
        sqlx::query(AssertSqlSafe(sql)).bind(oldest).fetch_optional(&mut *connection).await.map_err(unavailable)?;
    // It may have ended and been removed since it was counted.
    let oldest = row.as_ref().map(rows::operation).transpose()?.map(|oldest| oldest.submission.ready_at());
    // A lane that was tried again and has not settled since counts as parked, too.
    let parked = sqlx::query_scalar(
        "SELECT COUNT(DISTINCT configuration) FROM operations
         WHERE state IN ('queued', 'running')
           AND configuration IN (SELECT configuration FROM lanes WHERE parked_because IS NOT NULL)",
    );
    let parked: i64 = parked.fetch_one(&mut *connection).await.map_err(unavailable)?;
    let callbacks = callbacks::undelivered(connection).await?;
    Ok(Backlog { states, parked: u64::try_from(parked).unwrap_or(0), oldest, callbacks })
}

pub(super) async fn policy_sets_seen(
    connection: &mut PgConnection,
    configuration: &ConfigurationId,
) -> Result<Vec<String>, Error> {
    let found = sqlx::query("SELECT seen FROM policy_sets WHERE configuration = $1").bind(configuration.as_str());
    let found = found.fetch_optional(connection).await.map_err(unavailable)?;
    Ok(found.map(|row| seen(rows::column(&row, "seen")?)).transpose()?.unwrap_or_default())
}

pub(super) async fn expired_approvals(
    connection: &mut PgConnection,
    at: Timestamp,
    limit: usize,
) -> Result<Vec<Operation>, Error> {
    let sql = format!(
        "SELECT {OPERATION} FROM operations WHERE state = 'awaiting_approval' AND approval_until <= $1 LIMIT $2"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(micros(at)).bind(count(limit));
    query.fetch_all(connection).await.map_err(unavailable)?.iter().map(rows::operation).collect()
}
