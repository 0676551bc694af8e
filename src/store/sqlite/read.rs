//! The SQL of the reading verbs.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::{
    super::{
        Backlog, Due, Error, Parked, Query, Sequel,
        callbacks::Standing,
        rows::{self as columns, CALLBACK, count, micros, moment, progress, seen, unreadable, until_state},
        until::REVERSALS_MAX,
    },
    callbacks,
    indexing::Kind,
    rows::{self, OPERATION, Search, all, column, one, optional_text, text},
};
use crate::domain::{ConfigurationId, Operation, OperationId};

pub(super) fn operation(connection: &Connection, id: OperationId) -> Result<Option<Operation>, Error> {
    let sql = format!("SELECT {OPERATION} FROM operations WHERE id = ?");
    one(connection, &sql, [id.to_string()], rows::operation)
}

pub(super) fn operations(connection: &Connection, query: &Query) -> Result<Vec<Operation>, Error> {
    let Query { ticket, configuration, caller, state, after, limit } = query;
    let mut search = Search::default();
    let looked_for_by = [
        (Kind::OperationsTicket, "ticket", ticket.as_deref()),
        (Kind::OperationsCaller, "caller", caller.as_deref()),
        (Kind::OperationsConfiguration, "configuration", configuration.as_ref().map(ConfigurationId::as_str)),
    ];
    let named = looked_for_by.into_iter();
    let marks: Vec<_> =
        named.filter_map(|(kind, what, value)| Some((kind, what, search.bind(value?.to_owned())))).collect();
    let mut conditions = String::new();
    let mut and = |condition: String| {
        conditions.push_str(" AND ");
        conditions.push_str(&condition);
    };
    for (_, column, value) in &marks {
        and(format!("operations.{column} = {value}"));
    }
    let running = "EXISTS (SELECT 1 FROM running WHERE running.position = operations.position)";
    match state.as_deref() {
        Some("running") => and(format!("state = 'queued' AND {running}")),
        Some("queued") => and(format!("state = 'queued' AND NOT {running}")),
        Some(state) => and(format!("state = {}", search.bind(state.to_owned()))),
        None => {}
    }
    // If that one was removed since, the list continues at the next older id; ids are nearly in order of acceptance.
    let after = after.map(|id| {
        let id = search.bind(id.to_string());
        format!(
            "coalesce((SELECT position FROM operations WHERE id = {id}),
                 (SELECT position + 1 FROM operations WHERE id < {id} ORDER BY id DESC LIMIT 1), 0)"
        )
    });
    let mut go_on = String::new();
    if let Some(after) = after {
        and(format!("operations.position < {after}"));
        go_on = format!(" AND marks.position < {after}");
    }
    // Otherwise SQLite would scan all operations ever accepted for the few that have not ended.
    let pending = matches!(state.as_deref(), Some("queued" | "running")) && ticket.is_none() && caller.is_none();
    let found = match marks.first() {
        _ if pending => format!(
            "SELECT operations.position AS position, {OPERATION} FROM operations INDEXED BY operations_pending
             WHERE state = 'queued'{conditions}"
        ),
        None => format!("SELECT operations.position AS position, {OPERATION} FROM operations WHERE 1{conditions}"),
        // Each half comes in order, so no more is read than needed; with the position from `operations`, SQLite would sort.
        Some((kind, what, value)) => format!(
            "SELECT marks.position AS position, {OPERATION} FROM operations_index AS marks
             CROSS JOIN operations ON operations.position = marks.position
             WHERE marks.what = '{what}' AND marks.value = {value}{go_on}{conditions}
             UNION ALL SELECT operations.position AS position, {OPERATION} FROM operations
             WHERE operations.position > {}{conditions}",
            kind.through()
        ),
    };
    let limit = search.bind(count(*limit));
    let sql = format!("{found} ORDER BY position DESC LIMIT {limit}");
    all(connection, &sql, params_from_iter(search.values), rows::operation)
}

/// The oldest operations of a configuration that its lane has taken up.
pub(super) fn running(
    connection: &Connection,
    configuration: &ConfigurationId,
    limit: usize,
) -> Result<Vec<Operation>, Error> {
    let sql = format!(
        "SELECT {OPERATION} FROM operations INDEXED BY operations_pending
         WHERE configuration = ? AND state = 'queued'
             AND EXISTS (SELECT 1 FROM running WHERE running.position = operations.position)
         ORDER BY position LIMIT ?"
    );
    all(connection, &sql, params![configuration.as_str(), count(limit)], rows::operation)
}

pub(super) fn due(connection: &Connection, due: &Due) -> Result<Vec<Operation>, Error> {
    let after = due.after.map(|(at, id)| (micros(at), id.to_string()));
    let (at, id) = after.unwrap_or((i64::MIN, String::new()));
    let sql = format!(
        "SELECT {OPERATION} FROM operations WHERE until_at <= ? AND (until_at, id) > (?, ?)
         ORDER BY until_at, id LIMIT ?"
    );
    all(connection, &sql, params![micros(due.by), at, id, count(due.limit)], rows::operation)
}

pub(super) fn sequel(connection: &Connection, id: OperationId) -> Result<Sequel, Error> {
    let sql = format!("SELECT until_at, until_state, callback_due, {CALLBACK} FROM operations WHERE id = ?");
    let own = one(connection, &sql, [id.to_string()], |row| {
        let until = until_state(column(row, "until_at")?, optional_text(row, "until_state")?)?;
        Ok((callback(row)?, until))
    })?;
    let (callback, until) = own.unwrap_or_default();
    let sql = format!("SELECT {OPERATION} FROM operations WHERE reverts = ? ORDER BY position DESC LIMIT ?");
    let reversals = all(connection, &sql, params![id.to_string(), count(REVERSALS_MAX)], rows::operation)?;
    Ok(Sequel { callback, until, reversals })
}

fn callback(row: &Row<'_>) -> Result<Option<Standing>, Error> {
    let under_way: bool = column(row, "callback_under_way")?;
    let due: Option<i64> = column(row, "callback_due")?;
    let due = due.filter(|_| !under_way).map(moment).transpose()?;
    let progress = progress(optional_text(row, "callback_progress")?)?;
    columns::callback(optional_text(row, "callback_state")?, column(row, "callback_attempts")?, progress, due)
}

pub(super) fn parked(connection: &Connection, configuration: &ConfigurationId) -> Result<Option<Parked>, Error> {
    one(
        connection,
        "SELECT parked_because, not_before, attempts FROM lanes
         WHERE configuration = ? AND parked_because IS NOT NULL AND not_before IS NOT NULL",
        [configuration.as_str()],
        |row| {
            Ok(Parked {
                because: text(row, "parked_because")?.to_owned(),
                until: moment(column(row, "not_before")?)?,
                attempts: column(row, "attempts")?,
            })
        },
    )
}

pub(super) fn open_lanes(connection: &Connection, now: Timestamp, limit: usize) -> Result<Vec<ConfigurationId>, Error> {
    all(
        connection,
        "SELECT DISTINCT configuration FROM operations
         WHERE state = 'queued' AND configuration NOT IN (
             SELECT configuration FROM lanes WHERE lease_until > ?1 OR not_before > ?1)
         LIMIT ?2",
        params![micros(now), count(limit)],
        |row| text(row, "configuration")?.parse().map_err(|error| unreadable("configuration", &error)),
    )
}

/// Counts what has not ended, since when the oldest that may begin has waited, and what is not delivered.
pub(super) fn backlog(connection: &Connection) -> Result<Backlog, Error> {
    // In one statement, so that all counts are of the same moment.
    let sql = "SELECT COUNT(*) AS pending, MIN(position) AS oldest, (SELECT COUNT(*) FROM running) AS running,
                   (SELECT COUNT(*) FROM operations WHERE state = 'awaiting_approval') AS awaiting
               FROM operations INDEXED BY operations_pending WHERE state = 'queued'";
    let counted = one(connection, sql, [], |row| {
        let count = |name| column::<i64>(row, name);
        Ok((count("pending")?, column::<Option<i64>>(row, "oldest")?, count("running")?, count("awaiting")?))
    })?;
    let (pending, oldest, running, awaiting) = counted.unwrap_or_default();
    let states = [("awaiting_approval", awaiting), ("queued", pending.saturating_sub(running)), ("running", running)];
    let some = states.into_iter().filter(|(_, operations)| *operations > 0);
    let states = some.map(|(state, operations)| (state.to_owned(), u64::try_from(operations).unwrap_or(0))).collect();
    let sql = format!("SELECT {OPERATION} FROM operations WHERE position = ?");
    // It may have ended and been removed since it was counted.
    let oldest = one(connection, &sql, [oldest], rows::operation)?.map(|oldest| oldest.submission.ready_at());
    // A lane that was tried again and has not settled since counts as parked, too.
    let parked = one(
        connection,
        "SELECT COUNT(DISTINCT configuration) AS lanes FROM operations INDEXED BY operations_pending
         WHERE state = 'queued'
           AND configuration IN (SELECT configuration FROM lanes WHERE parked_because IS NOT NULL)",
        [],
        |row| column::<i64>(row, "lanes"),
    )?;
    let parked = u64::try_from(parked.unwrap_or(0)).unwrap_or(0);
    Ok(Backlog { states, parked, oldest, callbacks: callbacks::undelivered(connection)? })
}

pub(super) fn policy_sets_seen(connection: &Connection, configuration: &ConfigurationId) -> Result<Vec<String>, Error> {
    let sql = "SELECT seen FROM policy_sets WHERE configuration = ?";
    let seen = one(connection, sql, [configuration.as_str()], |row| seen(text(row, "seen")?))?;
    Ok(seen.unwrap_or_default())
}

pub(super) fn unanswered(connection: &Connection, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error> {
    let sql =
        format!("SELECT {OPERATION} FROM operations WHERE state = 'awaiting_approval' AND approval_until <= ? LIMIT ?");
    all(connection, &sql, params![micros(at), count(limit)], rows::operation)
}
