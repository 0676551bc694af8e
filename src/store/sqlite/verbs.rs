//! The SQL of the verbs that write. Each function runs inside a transaction that `desk` opens and commits.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite, SqliteConnection};

use super::{
    super::{
        Claim, Error, Holder, Intent, Lease, Parking, Run, Settlement, Turn,
        ledger::Ledger,
        room::Room,
        rows::{OPERATION, count, ended_at, intent, micros, to_json, unreadable},
        verbs::{Done, Outcome, Verb},
    },
    accept, callbacks, ends, rows, trail, unavailable,
};
use crate::{
    audit::{Entry, Event, Head},
    clock,
    domain::{Digest, Operation, OperationId, State},
};

/// Rows in one statement at most; SQLite takes 32,766 values in one.
pub(super) const ROWS_MAX: usize = 500;

/// Voids the leases of earlier runs (the lock file says that they are over) and opens this run's chain. Where a run
/// ended with a write under way, its lease stands to its end: Graph may still be carrying that write out, and it must not
/// land on top of a later one.
pub(super) async fn begin_run(connection: &mut SqliteConnection, run: &Run) -> Result<Head, Error> {
    let ends = trail::ends(connection).await?;
    let (head, opening) = Head::open(run.chain.clone(), &ends, env!("CARGO_PKG_VERSION"));
    let mut ledger = Ledger::new(head);
    ledger.add(&Entry { at: run.clock.now(), trace_id: None, event: opening });
    trail::write(connection, &ledger).await?;
    let freed =
        sqlx::query("UPDATE lanes SET owner = NULL, lease_until = NULL WHERE owner IS NOT NULL AND intent IS NULL");
    freed.execute(&mut *connection).await.map_err(unavailable)?;
    let given_back = sqlx::query("UPDATE deliveries SET owner = NULL, lease_until = NULL");
    given_back.execute(&mut *connection).await.map_err(unavailable)?;
    callbacks::begin_run(connection).await?;
    Ok(ledger.head)
}

/// Does the verbs of one transaction. An error undoes all of them; a refusal in an outcome concerns that verb alone.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    room: &mut Option<Room>,
    (ledger, now): (&mut Ledger, Timestamp),
    verbs: &[Verb],
) -> Result<Vec<Outcome>, Error> {
    let acceptances: Vec<_> =
        verbs.iter().filter_map(|verb| if let Verb::Accept(it) = verb { Some(&**it) } else { None }).collect();
    let mut accepted = accept::accept(connection, room, ledger, &acceptances).await?.into_iter();
    let mut outcomes = Vec::with_capacity(verbs.len());
    for verb in verbs {
        let outcome = match verb {
            Verb::Accept(_) => accepted.next().map_or(Ok(Done::Written), |it| Ok(Done::Accepted(it))),
            Verb::Cancel(cancellation) => Ok(Done::Cancelled(ends::cancel(connection, ledger, cancellation).await?)),
            Verb::Release(release) => Ok(Done::Released(ends::release(connection, ledger, release).await?)),
            Verb::Answer(reply) => Ok(Done::Answered(ends::answer(connection, ledger, reply).await?)),
            Verb::ClaimCallbacks(claim) => Ok(Done::Attempts(callbacks::claim(connection, now, claim).await?)),
            Verb::NoteAttempt(it) => Ok(Done::Noted(callbacks::attempted(connection, ledger, now, it).await?)),
            Verb::ResendCallback(it) => Ok(Done::Noted(callbacks::resend(connection, ledger, it).await?)),
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
            Verb::Forget(forgetting) => Ok(Done::Forgotten(ends::forget(connection, forgetting).await?)),
            Verb::Follow(following) => Ok(Done::Followed(trail::follow(connection, now, following).await?)),
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

async fn claim(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    now: Timestamp,
    claim: &Claim,
) -> Result<Option<Turn>, Error> {
    let taken = sqlx::query(
        "INSERT INTO lanes (configuration, owner, fencing, lease_until)
         SELECT ?1, ?2, 1, ?3
         WHERE EXISTS (SELECT 1 FROM operations WHERE configuration = ?1 AND state IN ('queued', 'running'))
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
    let lease = Lease::granted(claim, rows::column(&taken, "fencing")?, Duration::ZERO);
    let operations = pending(connection, claim).await?;
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

async fn pending(connection: &mut SqliteConnection, claim: &Claim) -> Result<Vec<Operation>, Error> {
    let sql = format!(
        "SELECT {OPERATION} FROM operations WHERE configuration = ? AND state IN ('queued', 'running')
         ORDER BY position LIMIT ?"
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(claim.configuration.as_str())
        .bind(count(claim.batch_max))
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    found.iter().map(rows::operation).collect()
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
    let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new("WITH ended (id, state, fate, ended_at) AS (");
    sql.push_values(ended.iter().zip(json), |mut row, ((id, state), json)| {
        row.push_bind(id.to_string()).push_bind(state.name()).push_bind(json).push_bind(ended_at(state));
    });
    sql.push(
        ") UPDATE operations SET state = ended.state, fate = ended.fate, ended_at = ended.ended_at FROM ended
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
    let announced = parking.announced.as_ref().map(|intent| to_json("intent", intent)).transpose()?;
    let outcome = if_held!(
        connection,
        holder,
        "owner = NULL, lease_until = NULL, not_before = ?, parked_because = ?, attempts = attempts + 1, intent = ?,
         left_digest = COALESCE(?, left_digest)",
        micros(clock::after(now, parking.pause)),
        &parking.because,
        announced,
        parking.left.as_ref().map(Digest::as_str)
    );
    if outcome.is_ok() {
        end_all(connection, holder, &parking.ended).await?;
        ledger.add_all(&parking.entries);
    }
    Ok(outcome)
}
