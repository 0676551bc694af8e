//! The SQL of the reading verbs.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params, params_from_iter, types::Value};

use super::{
    super::{
        Backlog, DueQuery, Error, FollowUps, Parked, Query,
        callbacks::Status,
        rows::{self as columns, CALLBACK, count, micros, moment, progress, seen, unreadable, until_state},
        until::{REVERSALS_MAX, REVERTED_MAX},
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
    let (sql, values) = search_for(query);
    all(connection, &sql, params_from_iter(values), rows::operation)
}

/// The statement that searches, and its values.
fn search_for(query: &Query) -> (String, Vec<Value>) {
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
    let few = state.as_deref().and_then(of_few);
    match (few, state) {
        (Some((_, condition)), _) => and(condition.to_owned()),
        (None, Some(state)) => and(format!("state = {}", search.bind(state.clone()))),
        (None, None) => {}
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
    // There are even fewer of a ticket.
    let found = match (few.filter(|_| ticket.is_none()), marks.first()) {
        (Some((index, _)), _) => format!(
            "SELECT operations.position AS position, {OPERATION} FROM operations INDEXED BY {index} WHERE 1{conditions}"
        ),
        (None, None) => {
            format!("SELECT operations.position AS position, {OPERATION} FROM operations WHERE 1{conditions}")
        }
        // Each half comes in its order, so no more is read than is asked for; by the position in the rows, SQLite would sort.
        (None, Some((kind, what, value))) => format!(
            "SELECT marks.position AS position, {OPERATION} FROM operations_index AS marks
             CROSS JOIN operations ON operations.position = marks.position
             WHERE marks.what = '{what}' AND marks.value = {value}{go_on}{conditions}
             UNION ALL SELECT operations.position AS position, {OPERATION} FROM operations
             WHERE operations.position > {}{conditions}",
            kind.through()
        ),
    };
    let limit = search.bind(count(*limit));
    (format!("{found} ORDER BY position DESC LIMIT {limit}"), search.values)
}

/// The index of a state in which few operations are, and the condition of that state. SQLite uses such an index only if the
/// state stands in the statement, and surely only if the index is named: otherwise it goes through all that ever was, in the
/// order that is asked for.
fn of_few(state: &str) -> Option<(&'static str, &'static str)> {
    let taken_up = "state = 'queued' AND operations.position IN (SELECT position FROM running)";
    let waiting = "state = 'queued' AND operations.position NOT IN (SELECT position FROM running)";
    Some(match state {
        "awaiting_approval" => ("operations_awaiting", "state = 'awaiting_approval'"),
        "queued" => ("operations_pending", waiting),
        "running" => ("operations_pending", taken_up),
        "failed" => ("operations_unsuccessful", "state = 'failed'"),
        "cancelled" => ("operations_unsuccessful", "state = 'cancelled'"),
        _ => return None,
    })
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

pub(super) fn due_untils(connection: &Connection, due: &DueQuery) -> Result<Vec<Operation>, Error> {
    let after = due.after.map(|(at, id)| (micros(at), id.to_string()));
    let (at, id) = after.unwrap_or((i64::MIN, String::new()));
    let sql = format!(
        "SELECT {OPERATION} FROM operations WHERE until_at <= ? AND (until_at, id) > (?, ?)
         ORDER BY until_at, id LIMIT ?"
    );
    all(connection, &sql, params![micros(due.by), at, id, count(due.limit)], rows::operation)
}

pub(super) fn follow_ups(connection: &Connection, id: OperationId) -> Result<FollowUps, Error> {
    let sql = format!("SELECT until_at, until_state, callback_due, {CALLBACK} FROM operations WHERE id = ?");
    let own = one(connection, &sql, [id.to_string()], |row| {
        let until = until_state(column(row, "until_at")?, optional_text(row, "until_state")?)?;
        Ok((callback(row)?, until))
    })?;
    let (callback, until) = own.unwrap_or_default();
    let sql = format!("SELECT {OPERATION} FROM operations WHERE reverts = ? ORDER BY position DESC LIMIT ?");
    let reversals = all(connection, &sql, params![id.to_string(), count(REVERSALS_MAX)], rows::operation)?;
    Ok(FollowUps { callback, until, reversals })
}

/// Each index is named, since without statistics SQLite picks others.
pub(super) fn reverted_since(
    connection: &Connection,
    id: OperationId,
    configuration: &ConfigurationId,
) -> Result<Vec<Operation>, Error> {
    let sql = format!(
        "WITH own AS (SELECT ended_at, position FROM operations WHERE id = ?2)
         SELECT {OPERATION} FROM operations WHERE id IN (
             SELECT undoing.reverts FROM operations AS undoing INDEXED BY operations_reversals
             WHERE undoing.reverts IS NOT NULL AND undoing.configuration = ?1
                 AND (undoing.state = 'queued'
                      OR undoing.state = 'succeeded' AND (undoing.ended_at, undoing.position) > (SELECT * FROM own))
                 AND NOT EXISTS (
                     SELECT 1 FROM operations AS redoing INDEXED BY operations_reverting
                     WHERE redoing.reverts = undoing.id AND redoing.state IN ('queued', 'succeeded') AND NOT EXISTS (
                         SELECT 1 FROM operations AS again INDEXED BY operations_reverting
                         WHERE again.reverts = redoing.id AND again.state IN ('queued', 'succeeded') AND NOT EXISTS (
                             SELECT 1 FROM operations AS last INDEXED BY operations_reverting
                             WHERE last.reverts = again.id AND last.state IN ('queued', 'succeeded')))))
             AND (ended_at, position) < (SELECT * FROM own)
         ORDER BY ended_at DESC, position DESC LIMIT ?3"
    );
    let values = params![configuration.as_str(), id.to_string(), count(REVERTED_MAX)];
    all(connection, &sql, values, rows::operation)
}

fn callback(row: &Row<'_>) -> Result<Option<Status>, Error> {
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

pub(super) fn expired_approvals(connection: &Connection, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error> {
    let sql =
        format!("SELECT {OPERATION} FROM operations WHERE state = 'awaiting_approval' AND approval_until <= ? LIMIT ?");
    all(connection, &sql, params![micros(at), count(limit)], rows::operation)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::{
        super::{connect, indexing::Indexing},
        *,
    };

    const OPERATIONS: i64 = 20_000;
    const CONFIGURATION: &str = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit";

    /// Operations that succeeded, and before them two that wait, two that run and two of each other state.
    fn filled() -> Connection {
        let mut connection = connect::in_memory();
        let sql = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?2)
             INSERT INTO operations (id, configuration, caller, ticket, state, submission, fate)
             SELECT 'op_' || n, ?1, 'caller', 'T' || (n / 20),
                 CASE (n + 1) / 2 WHEN 1 THEN 'awaiting_approval' WHEN 2 THEN 'failed' WHEN 3 THEN 'cancelled'
                     WHEN 4 THEN 'queued' WHEN 5 THEN 'queued' ELSE 'succeeded' END, '', ''
             FROM n";
        connection.execute(sql, params![CONFIGURATION, OPERATIONS]).unwrap();
        connection.execute("INSERT INTO running VALUES (9, 0), (10, 0)", []).unwrap();
        Indexing::begin(&mut connection);
        connection
    }

    #[test]
    fn a_search_by_state_looks_through_little_however_much_there_is() {
        let connection = filled();
        let (configuration, caller) = (CONFIGURATION.parse().ok(), Some("caller".to_owned()));
        for state in ["awaiting_approval", "queued", "running", "failed", "cancelled"] {
            let few = Query { state: Some(state.to_owned()), limit: 100, ..Query::default() };
            let queries = [
                few.clone(),
                Query { caller: caller.clone(), ..few.clone() },
                Query { configuration: configuration.clone(), ..few.clone() },
                Query { ticket: Some("T0".to_owned()), caller: caller.clone(), ..few.clone() },
            ];
            for query in queries {
                let (sql, values) = search_for(&query);
                let mut statement = connection.prepare(&sql).unwrap();
                let found = statement.query_map(params_from_iter(values), |_| Ok(())).unwrap().count();
                assert_eq!(found, 2, "{query:?}");
                // Each operation that is looked at takes some.
                let steps = statement.get_status(StatementStatus::VmStep);
                assert!(i64::from(steps) < OPERATIONS / 2, "{query:?} takes {steps} steps");
            }
        }
    }
}
