//! The SQL of the verbs that write. Each function runs inside a transaction that `desk` opens and commits.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite, SqliteConnection};

use super::{
    super::{
        Acceptance, Accepted, Claim, Error, Holder, IdempotencyKey, Intent, Lease, Parking, Run, Settlement, Turn,
        ledger::{Ledger, head_after},
        rows::{OPERATION, count, intent, micros, to_json, unreadable},
        verbs::{Done, Outcome, Verb, meet},
    },
    read, rows, unavailable,
};
use crate::{
    audit::{Entry, Event, Head},
    clock,
    domain::{Digest, Operation, OperationId, State},
};

/// Rows in one INSERT at most; SQLite takes 32,766 values in a statement.
const ROWS_MAX: usize = 500;

/// Writes the records of a transaction.
pub(super) async fn write(connection: &mut SqliteConnection, ledger: &Ledger) -> Result<(), Error> {
    for records in ledger.records.chunks(ROWS_MAX) {
        let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new("INSERT INTO audit (chain, sequence, text) ");
        sql.push_values(records, |mut row, record| {
            let sequence = i64::try_from(record.sequence).unwrap_or(i64::MAX);
            row.push_bind(&record.chain).push_bind(sequence).push_bind(&record.text);
        });
        sql.build().execute(&mut *connection).await.map_err(unavailable)?;
    }
    Ok(())
}

/// Voids the leases of earlier runs (the lock file says that they are over) and opens this run's chain. Where a run
/// ended with a write under way, its lease stands to its end: Graph may still be carrying that write out, and it must not
/// land on top of a later one.
pub(super) async fn begin_run(connection: &mut SqliteConnection, run: &Run) -> Result<Head, Error> {
    let newest = sqlx::query("SELECT text FROM audit ORDER BY position DESC LIMIT 1");
    let newest = newest.fetch_optional(&mut *connection).await.map_err(unavailable)?;
    // One run after another: the newest record is the end of the one chain that no opening has named.
    let ends = newest.iter().map(|row| head_after(&rows::text(row, "text")?)).collect::<Result<Vec<_>, _>>()?;
    let (head, opening) = Head::open(run.chain.clone(), &ends, env!("CARGO_PKG_VERSION"));
    let mut ledger = Ledger::new(head);
    ledger.add(&Entry { at: run.clock.now(), trace_id: None, event: opening });
    write(connection, &ledger).await?;
    let freed =
        sqlx::query("UPDATE lanes SET owner = NULL, lease_until = NULL WHERE owner IS NOT NULL AND intent IS NULL");
    freed.execute(connection).await.map_err(unavailable)?;
    Ok(ledger.head)
}

/// Does the verbs of one transaction. An error undoes all of them; a refusal in an outcome concerns that verb alone.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    now: Timestamp,
    verbs: &[Verb],
) -> Result<Vec<Outcome>, Error> {
    let acceptances: Vec<_> =
        verbs.iter().filter_map(|verb| if let Verb::Accept(it) = verb { Some(&**it) } else { None }).collect();
    let mut accepted = accept(connection, ledger, &acceptances).await?.into_iter();
    let mut outcomes = Vec::with_capacity(verbs.len());
    for verb in verbs {
        let outcome = match verb {
            Verb::Accept(_) => accepted.next().map_or(Ok(Done::Written), |it| Ok(Done::Accepted(it))),
            Verb::Record(entries) => {
                ledger.add_all(entries);
                Ok(Done::Written)
            }
            Verb::Claim(wanted, until) => {
                let turn = claim(connection, ledger, now, wanted).await?;
                let granted = |mut turn: Turn| {
                    turn.lease.until = *until;
                    Box::new(turn)
                };
                Ok(Done::Claimed(turn.map(granted)))
            }
            Verb::BeginWrite(holder, intent, ttl) => {
                begin_write(connection, holder, intent, clock::after(now, *ttl)).await?
            }
            Verb::Settle(holder, settlement) => settle(connection, ledger, now, (holder, settlement)).await?,
            Verb::Park(holder, parking) => park(connection, ledger, now, (holder, parking)).await?,
            Verb::Probe => {
                let sql = "INSERT INTO probe (one, probed_at) VALUES (1, ?1) ON CONFLICT DO UPDATE SET probed_at = ?1";
                sqlx::query(sql).bind(micros(now)).execute(&mut *connection).await.map_err(unavailable)?;
                Ok(Done::Written)
            }
        };
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

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
    // An operation may be forgotten before its key is; then the key is free again.
    Ok(operation.map(|operation| Accepted::Replayed(Box::new(operation))))
}

async fn accept(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    acceptances: &[&Acceptance],
) -> Result<Vec<Accepted>, Error> {
    let mut accepted = Vec::with_capacity(acceptances.len());
    let mut new: Vec<&Acceptance> = Vec::with_capacity(acceptances.len());
    let mut keys: HashMap<(&str, &str), &Acceptance> = HashMap::new();
    for acceptance in acceptances {
        let caller = acceptance.operation.submission.caller.as_str();
        let known = match &acceptance.key {
            None => None,
            Some(key) => match keys.get(&(caller, key.key.as_str())) {
                Some(first) => Some(meet(first, key)),
                None => recall(connection, caller, key).await?,
            },
        };
        if known.is_none() {
            new.push(acceptance);
            ledger.add(&acceptance.entry);
            if let Some(key) = &acceptance.key {
                keys.insert((caller, &key.key), acceptance);
            }
        }
        accepted.push(known.unwrap_or(Accepted::New));
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

async fn insert_operations(connection: &mut SqliteConnection, new: &[&Acceptance]) -> Result<(), Error> {
    let mut json = Vec::with_capacity(new.len());
    for Acceptance { operation, .. } in new {
        json.push((to_json("submission", &operation.submission)?, to_json("fate", &operation.state)?));
    }
    let mut sql: QueryBuilder<Sqlite> =
        QueryBuilder::new("INSERT INTO operations (id, configuration, caller, ticket, state, submission, fate) ");
    sql.push_values(
        new.iter().zip(json),
        |mut row, (Acceptance { operation: Operation { id, submission, state }, .. }, json)| {
            row.push_bind(id.to_string())
                .push_bind(submission.configuration.as_str())
                .push_bind(&submission.caller)
                .push_bind(&submission.ticket)
                .push_bind(state.name())
                .push_bind(json.0)
                .push_bind(json.1);
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

async fn claim(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    now: Timestamp,
    claim: &Claim,
) -> Result<Option<Turn>, Error> {
    let sql = format!(
        "SELECT {OPERATION} FROM operations WHERE configuration = ? AND state IN ('queued', 'running')
         ORDER BY position LIMIT ?"
    );
    let pending = sqlx::query(AssertSqlSafe(sql))
        .bind(claim.configuration.as_str())
        .bind(count(claim.batch_max))
        .fetch_all(&mut *connection)
        .await
        .map_err(unavailable)?;
    if pending.is_empty() {
        return Ok(None);
    }
    let taken = sqlx::query(
        "INSERT INTO lanes (configuration, owner, fencing, lease_until) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT (configuration) DO UPDATE SET owner = ?2, fencing = fencing + 1, lease_until = ?3, not_before = NULL
         WHERE (lease_until IS NULL OR lease_until <= ?4) AND (not_before IS NULL OR not_before <= ?4)
         RETURNING fencing, intent, left_digest, attempts",
    )
    .bind(claim.configuration.as_str())
    .bind(&claim.owner)
    .bind(micros(clock::after(now, claim.ttl)))
    .bind(micros(now))
    .fetch_optional(&mut *connection)
    .await
    .map_err(unavailable)?;
    let Some(taken) = taken else { return Ok(None) };
    let left: Option<&str> = rows::column(&taken, "left_digest")?;
    let lease = Lease {
        configuration: claim.configuration.clone(),
        owner: claim.owner.clone(),
        fencing: rows::column(&taken, "fencing")?,
        until: Duration::ZERO,
    };
    let operations = pending.iter().map(rows::operation).collect::<Result<Vec<_>, _>>()?;
    let operations = start(connection, operations, claim).await?;
    ledger.add(&Entry {
        at: claim.at,
        trace_id: claim.trace_id.clone(),
        event: Event::Started {
            configuration: claim.configuration.to_string(),
            operations: operations.iter().map(|operation| operation.id).collect(),
            lease: lease.fencing,
        },
    });
    Ok(Some(Turn {
        lease,
        operations,
        intent: intent(rows::column(&taken, "intent")?)?,
        left: left.map(Digest::stored),
        attempts: rows::column(&taken, "attempts")?,
    }))
}

/// Marks operations running, those that are not yet.
async fn start(
    connection: &mut SqliteConnection,
    operations: Vec<Operation>,
    claim: &Claim,
) -> Result<Vec<Operation>, Error> {
    let fate = to_json("fate", &State::Running { started_at: claim.at })?;
    let ids: Vec<_> = operations.iter().filter(|it| it.state == State::Queued).map(|it| it.id).collect();
    for ids in ids.chunks(ROWS_MAX) {
        let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new("UPDATE operations SET state = 'running', fate = ");
        sql.push_bind(&fate).push(" WHERE state = 'queued' AND id IN (");
        let mut list = sql.separated(", ");
        for id in ids {
            list.push_bind(id.to_string());
        }
        sql.push(")").build().execute(&mut *connection).await.map_err(unavailable)?;
    }
    let started = |Operation { id, submission, state }| {
        let state = state.start(claim.at).map_err(|error| unreadable("fate", &error))?;
        Ok(Operation { id, submission, state })
    };
    operations.into_iter().map(started).collect()
}

/// Changes the row of a lane if it is still this holder's: the SQL of the change, then the values bound in it.
macro_rules! if_held {
    ($connection:expr, $holder:expr, $set:literal $(, $value:expr)*) => {{
        let sql = concat!("UPDATE lanes SET ", $set, " WHERE configuration = ? AND owner = ? AND fencing = ?");
        let holder: &Holder = $holder;
        let changed = sqlx::query(sql)
            $(.bind($value))*
            .bind(holder.configuration.as_str())
            .bind(&holder.owner)
            .bind(holder.fencing)
            .execute(&mut *$connection)
            .await
            .map_err(unavailable)?;
        if changed.rows_affected() == 1 { Ok(Done::Written) } else { Err(Error::LeaseLost(holder.configuration.clone())) }
    }};
}

async fn begin_write(
    connection: &mut SqliteConnection,
    holder: &Holder,
    intent: &Intent,
    until: Timestamp,
) -> Result<Outcome, Error> {
    let intent = to_json("intent", intent)?;
    Ok(if_held!(connection, holder, "intent = ?, lease_until = ?", intent, micros(until)))
}

async fn settle(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    now: Timestamp,
    (holder, settlement): (&Holder, &Settlement),
) -> Result<Outcome, Error> {
    let left = settlement.left.as_ref().map(Digest::as_str);
    let kept = |ttl| (Some(&holder.owner), Some(micros(clock::after(now, ttl))));
    let (owner, until) = settlement.keep.map_or((None, None), kept);
    let outcome = if_held!(
        connection,
        holder,
        "intent = NULL, left_digest = COALESCE(?, left_digest), attempts = 0, parked_because = NULL, owner = ?, lease_until = ?",
        left,
        owner,
        until
    );
    if outcome.is_ok() {
        end_all(connection, holder, &settlement.ended).await?;
        ledger.add_all(&settlement.entries);
    }
    Ok(outcome)
}

async fn end_all(
    connection: &mut SqliteConnection,
    holder: &Holder,
    ended: &[(OperationId, State)],
) -> Result<(), Error> {
    for ended in ended.chunks(ROWS_MAX) {
        end(connection, holder, ended).await?;
    }
    Ok(())
}

/// Writes the end of operations; each must be running on the holder's lane, or the whole transaction is undone.
async fn end(connection: &mut SqliteConnection, holder: &Holder, ended: &[(OperationId, State)]) -> Result<(), Error> {
    let mut json = Vec::with_capacity(ended.len());
    for (_, state) in ended {
        json.push(to_json("fate", state)?);
    }
    let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new("WITH ended (id, state, fate) AS (");
    sql.push_values(ended.iter().zip(json), |mut row, ((id, state), json)| {
        row.push_bind(id.to_string()).push_bind(state.name()).push_bind(json);
    });
    sql.push(
        ") UPDATE operations SET state = ended.state, fate = ended.fate FROM ended
         WHERE operations.id = ended.id AND operations.state = 'running' AND operations.configuration = ",
    );
    sql.push_bind(holder.configuration.as_str());
    let changed = sql.build().execute(connection).await.map_err(unavailable)?.rows_affected();
    if usize::try_from(changed).ok() == Some(ended.len()) { Ok(()) } else { Err(holder.wrong(ended.len(), changed)) }
}

async fn park(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    now: Timestamp,
    (holder, parking): (&Holder, &Parking),
) -> Result<Outcome, Error> {
    let outcome = if_held!(
        connection,
        holder,
        "owner = NULL, lease_until = NULL, not_before = ?, parked_because = ?, attempts = attempts + 1",
        micros(clock::after(now, parking.pause)),
        &parking.because
    );
    if outcome.is_ok() {
        end_all(connection, holder, &parking.ended).await?;
        ledger.add_all(&parking.entries);
    }
    Ok(outcome)
}
