//! Acceptances of one transaction, by statements of many rows; and what idempotency keys stand for.

use std::collections::{HashMap, HashSet};

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{
    super::{
        Acceptance, Accepted, Error, Full, IdempotencyKey,
        ledger::Ledger,
        room::Room,
        rows::{approval_until, destination, micros, reverts, to_json, unreadable, until_at},
        verbs::meet,
    },
    ends, read, rows, unavailable,
    verbs::ROWS_MAX,
};
use crate::domain::{CallbackState, Operation, OperationId, operation::UntilState};

/// What a key stands for, if it is remembered.
pub(super) async fn recall(
    connection: &mut SqliteConnection,
    caller: &str,
    key: &IdempotencyKey,
) -> Result<Option<Accepted>, Error> {
    let known = sqlx::query(
        "SELECT fingerprint, operation FROM idempotency_keys WHERE caller = ? AND key = ? AND expires_at > ?",
    )
    .bind(caller)
    .bind(&key.key)
    .bind(micros(key.used_at))
    .fetch_optional(&mut *connection)
    .await
    .map_err(unavailable)?;
    let Some(known) = known else { return Ok(None) };
    let id: OperationId = rows::text(&known, "operation")?.parse().map_err(|error| unreadable("operation", &error))?;
    if rows::text(&known, "fingerprint")? != key.fingerprint.as_str() {
        return Ok(Some(Accepted::KeyReused(id)));
    }
    let operation = read::operation(connection, id).await?;
    // Between our two looks both may have been forgotten; then the key is free again.
    Ok(operation.map(|operation| Accepted::Replayed(Box::new(operation))))
}

pub(super) async fn accept(
    connection: &mut SqliteConnection,
    room: &mut Option<Room>,
    ledger: &mut Ledger,
    acceptances: &[&Acceptance],
) -> Result<Vec<Accepted>, Error> {
    let mut accepted = Vec::with_capacity(acceptances.len());
    let used = used_keys(connection, acceptances).await?;
    let mut new: Vec<&Acceptance> = Vec::with_capacity(acceptances.len());
    let mut keys: HashMap<(&str, &str), &Acceptance> = HashMap::new();
    let mut counted = false;
    for acceptance in acceptances {
        let caller = acceptance.operation.submission.caller.as_str();
        let known = match &acceptance.key {
            None => None,
            Some(key) => match keys.get(&(caller, key.key.as_str())) {
                Some(first) => Some(meet(first, key)),
                None if used.contains(&(caller.to_owned(), key.key.clone())) => recall(connection, caller, key).await?,
                None => None,
            },
        };
        if let Some(known) = known {
            accepted.push(known);
            continue;
        }
        let mut full = room.as_mut().map_or(Some(Full::Everything), |room| room.take(acceptance));
        if full.is_some() && !counted {
            // What has ended since it was counted last may have made room.
            let mut anew = pending(connection).await?;
            for it in &new {
                anew.add(it);
            }
            full = anew.take(acceptance);
            (*room, counted) = (Some(anew), true);
        }
        if let Some(full) = full {
            accepted.push(Accepted::Full(full));
            continue;
        }
        if let Some(ended) = acceptance.ends
            && !ends::settle_until(connection, ended, UntilState::Reverted(acceptance.operation.id)).await?
        {
            accepted.push(Accepted::Over);
            continue;
        }
        new.push(acceptance);
        ledger.add(&acceptance.entry);
        if let Some(key) = &acceptance.key {
            keys.insert((caller, &key.key), acceptance);
        }
        accepted.push(Accepted::New);
    }
    for chunk in new.chunks(ROWS_MAX) {
        insert_operations(connection, chunk).await?;
    }
    let keyed: Vec<_> = new.iter().filter_map(|it| it.key.as_ref().map(|key| (&it.operation, key))).collect();
    for chunk in keyed.chunks(ROWS_MAX) {
        insert_keys(connection, chunk).await?;
    }
    Ok(accepted)
}

/// The keys among those of acceptances, with the names of their callers, that may be in use.
async fn used_keys(
    connection: &mut SqliteConnection,
    acceptances: &[&Acceptance],
) -> Result<HashSet<(String, String)>, Error> {
    let asked = |it: &&&Acceptance| it.key.is_some();
    let mut used = HashSet::new();
    for chunk in acceptances.iter().filter(asked).collect::<Vec<_>>().chunks(ROWS_MAX) {
        let mut sql: QueryBuilder<Sqlite> =
            QueryBuilder::new("SELECT caller, key FROM idempotency_keys WHERE (caller, key) IN (");
        sql.push_values(chunk, |mut row, Acceptance { operation, key, .. }| {
            row.push_bind(&operation.submission.caller).push_bind(key.as_ref().map(|key| &key.key));
        });
        let found = sql.push(")").build_query_as().fetch_all(&mut *connection).await.map_err(unavailable)?;
        used.extend::<Vec<(String, String)>>(found);
    }
    Ok(used)
}

/// What is pending: counted in the indices of what is, each of which serves one half.
async fn pending(connection: &mut SqliteConnection) -> Result<Room, Error> {
    let found = sqlx::query_as(
        "SELECT configuration, count(*) FROM operations WHERE state IN ('queued', 'running') GROUP BY configuration
         UNION ALL
         SELECT configuration, count(*) FROM operations WHERE state = 'awaiting_approval' GROUP BY configuration",
    )
    .fetch_all(connection)
    .await
    .map_err(unavailable)?;
    Ok(Room::new(found))
}

async fn insert_operations(connection: &mut SqliteConnection, new: &[&Acceptance]) -> Result<(), Error> {
    let mut json = Vec::with_capacity(new.len());
    for Acceptance { operation, .. } in new {
        json.push((to_json("submission", &operation.submission)?, to_json("fate", &operation.state)?));
    }
    let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(
        "INSERT INTO operations (id, configuration, caller, ticket, state, until_at, reverts, callback_destination,
             callback_state, callback_due, submission, fate, approval_until) ",
    );
    sql.push_values(
        new.iter().zip(json),
        |mut row, (Acceptance { operation: Operation { id, submission, state }, .. }, json)| {
            row.push_bind(id.to_string())
                .push_bind(submission.configuration.as_str())
                .push_bind(&submission.caller)
                .push_bind(&submission.ticket)
                .push_bind(state.name())
                .push_bind(until_at(submission))
                .push_bind(reverts(submission))
                .push_bind(destination(submission))
                .push_bind(destination(submission).map(|_| CallbackState::Pending.name()))
                .push_bind(destination(submission).map(|_| 0_i64))
                .push_bind(json.0)
                .push_bind(json.1)
                .push_bind(approval_until(submission));
        },
    );
    sql.build().execute(connection).await.map_err(unavailable).map(drop)
}

async fn insert_keys(connection: &mut SqliteConnection, keyed: &[(&Operation, &IdempotencyKey)]) -> Result<(), Error> {
    let mut sql: QueryBuilder<Sqlite> =
        QueryBuilder::new("INSERT OR REPLACE INTO idempotency_keys (caller, key, fingerprint, operation, expires_at) ");
    sql.push_values(keyed, |mut row, (operation, key)| {
        row.push_bind(&operation.submission.caller)
            .push_bind(&key.key)
            .push_bind(key.fingerprint.as_str())
            .push_bind(operation.id.to_string())
            .push_bind(micros(key.expires_at));
    });
    sql.build().execute(connection).await.map_err(unavailable).map(drop)
}
