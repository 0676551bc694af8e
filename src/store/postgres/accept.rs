//! The acceptances of one transaction, by multi-row statements.
//!
//! Other replicas may use the same idempotency keys at the same moment: the row of the key decides who was first. The others
//! get what the first one stored, which is committed by then. Keys are taken in sorted order, so that replicas do not deadlock
//! on them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use sqlx::PgConnection;

use super::{
    super::{
        Acceptance, Accepted, Error, IdempotencyKey, LimitReached,
        audit_batch::AuditBatch,
        capacity::{Pending, PendingCapacity, Wait},
        rows::{approval_until, destination, micros, reverts, to_json, until_at},
        writer::TransactionError,
    },
    failed, read, rows, unleased,
};
use crate::{
    clock::Clock,
    domain::{OperationId, operation::UntilState},
};

/// How long a count of what is pending is reused: counting takes longer the more there is, and each commit would pay for it.
/// What other replicas accept is noticed that much later.
const COUNT_HOLDS: Duration = Duration::from_secs(1);

/// A caller and its key.
type Name<'a> = (&'a str, &'a str);
/// The first acceptance of this transaction that has a key, and the key.
type First<'a> = (&'a Acceptance, &'a IdempotencyKey);

/// Room for acceptances, as far as known here: by a recent count, and what this process has accepted since.
#[derive(Debug)]
pub(super) struct CapacityCache {
    capacity: Option<PendingCapacity>,
    at: Duration,
    clock: Clock,
}

impl CapacityCache {
    pub(super) fn new(clock: Clock) -> Self {
        Self { capacity: None, at: Duration::ZERO, clock }
    }

    /// To be called if the transaction failed: places taken in it are free, and operations that ended in it have not ended.
    pub(super) fn invalidate(&mut self) {
        self.capacity = None;
    }

    fn invalidate_if_stale(&mut self) {
        if self.clock.elapsed().saturating_sub(self.at) >= COUNT_HOLDS {
            self.capacity = None;
        }
    }

    /// Takes a place for an acceptance. `new` are those of this transaction that have a place and are not stored yet.
    async fn reserve(
        &mut self,
        connection: &mut PgConnection,
        (new, counted): (&[&Acceptance], &mut bool),
        acceptance: &Acceptance,
    ) -> Result<Option<LimitReached>, TransactionError> {
        let full = self.capacity.as_mut().map_or(Some(LimitReached::Total), |capacity| capacity.reserve(acceptance));
        if full.is_none() || *counted {
            return Ok(full);
        }
        // Operations that have ended since the last count may have made room.
        *counted = true;
        self.at = self.clock.elapsed();
        let capacity = self.capacity.insert(pending(connection).await?);
        for accepted in new {
            capacity.add(accepted);
        }
        Ok(capacity.reserve(acceptance))
    }
}

pub(super) async fn accept(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    capacity: &mut CapacityCache,
    acceptances: &[&Acceptance],
) -> Result<Vec<Accepted>, TransactionError> {
    let mut firsts: BTreeMap<Name<'_>, First<'_>> = BTreeMap::new();
    for acceptance in acceptances {
        if let Some(key) = &acceptance.key {
            firsts.entry(name_of(acceptance, key)).or_insert((*acceptance, key));
        }
    }
    lock_reversals(connection, acceptances).await?;
    let taken = take_keys(connection, &firsts).await?;
    let mut accepted = Vec::with_capacity(acceptances.len());
    let mut new = Vec::with_capacity(acceptances.len());
    let mut refused: HashMap<OperationId, Accepted> = HashMap::new();
    capacity.invalidate_if_stale();
    let mut counted = false;
    for acceptance in acceptances {
        let known = match &acceptance.key {
            None => None,
            Some(key) => {
                let name = name_of(acceptance, key);
                let first = firsts.get(&name).map(|first| first.0);
                let is_taken = taken.contains(&(name.0.to_owned(), name.1.to_owned()));
                match first {
                    Some(first) if is_taken && std::ptr::eq(first, *acceptance) => None,
                    Some(first) if is_taken => Some(match refused.get(&first.operation.id) {
                        Some(refusal) => refusal.clone(),
                        None => meet(first, key),
                    }),
                    Some(_) | None => Some(known(connection, name.0, key).await?),
                }
            }
        };
        if let Some(known) = known {
            accepted.push(known);
            continue;
        }
        let lane = acceptance.operation.submission.configuration.as_str();
        if acceptance.reverted_since.is_some() && reversing(&new).contains(lane) {
            // It must know those before it.
            insert_operations(connection, &new).await?;
            new.clear();
        }
        let refusal = if is_outdated(connection, acceptance).await? {
            Some(Accepted::Outdated)
        } else {
            capacity.reserve(connection, (&new, &mut counted), acceptance).await?.map(Accepted::LimitReached)
        };
        if let Some(refusal) = refusal {
            if acceptance.key.is_some() {
                refused.insert(acceptance.operation.id, refusal.clone());
            }
            accepted.push(refusal);
            continue;
        }
        if let Some(ended) = acceptance.carries_out_until_of
            && !unleased::settle_until(connection, ended, UntilState::Reverted(acceptance.operation.id)).await?
        {
            accepted.push(Accepted::EndAlreadySettled);
            continue;
        }
        new.push(*acceptance);
        audit.add(&acceptance.entry);
        accepted.push(Accepted::New);
    }
    give_back(connection, refused.keys()).await?;
    insert_operations(connection, &new).await?;
    Ok(accepted)
}

fn name_of<'a>(acceptance: &'a Acceptance, key: &'a IdempotencyKey) -> Name<'a> {
    (&acceptance.operation.submission.caller, &key.key)
}

/// What a key stands for that was taken before.
async fn known(
    connection: &mut PgConnection,
    caller: &str,
    key: &IdempotencyKey,
) -> Result<Accepted, TransactionError> {
    let known = read::find_by_key(connection, caller, key).await.map_err(TransactionError::Content)?;
    let gone = || TransactionError::Content(Error::Unavailable("an idempotency key was forgotten just now".to_owned()));
    known.ok_or_else(gone)
}

/// Takes the keys that are free or expired, and returns which these are.
async fn take_keys(
    connection: &mut PgConnection,
    firsts: &BTreeMap<Name<'_>, First<'_>>,
) -> Result<BTreeSet<(String, String)>, TransactionError> {
    if firsts.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (callers, keys): (Vec<_>, Vec<_>) = firsts.keys().copied().unzip();
    let column = |text: fn(&First<'_>) -> String| firsts.values().map(text).collect::<Vec<_>>();
    let moments = |moment: fn(&IdempotencyKey) -> i64| firsts.values().map(|it| moment(it.1)).collect::<Vec<_>>();
    let taken = sqlx::query(
        "INSERT INTO idempotency_keys AS known (caller, key, fingerprint, operation, used_at, expires_at)
         SELECT caller, key, fingerprint, operation, used_at, expires_at
         FROM unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::BIGINT[], $6::BIGINT[]) WITH ORDINALITY
              AS new (caller, key, fingerprint, operation, used_at, expires_at, place)
         ORDER BY place
         ON CONFLICT (caller, key) DO UPDATE SET fingerprint = EXCLUDED.fingerprint, operation = EXCLUDED.operation,
             used_at = EXCLUDED.used_at, expires_at = EXCLUDED.expires_at
         WHERE known.expires_at <= EXCLUDED.used_at
         RETURNING caller, key",
    )
    .bind(callers)
    .bind(keys)
    .bind(column(|it| it.1.fingerprint.as_str().to_owned()))
    .bind(column(|it| it.0.operation.id.to_string()))
    .bind(moments(|key| micros(key.used_at)))
    .bind(moments(|key| micros(key.expires_at)))
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let name = |row| Ok((rows::column(row, "caller")?, rows::column(row, "key")?));
    taken.iter().map(name).collect::<Result<_, Error>>().map_err(TransactionError::Content)
}

/// The lanes on which reversals are to be accepted, each once, in order.
fn reversing<'a>(acceptances: &[&'a Acceptance]) -> BTreeSet<&'a str> {
    let submissions = acceptances.iter().map(|it| &it.operation.submission);
    submissions.filter(|it| it.change.reversal().is_some()).map(|it| it.configuration.as_str()).collect()
}

/// Makes other replicas that accept reversals on the same lanes wait for this transaction, and waits for theirs: each reversal
/// must know those before it. These locks come before all others.
async fn lock_reversals(connection: &mut PgConnection, acceptances: &[&Acceptance]) -> Result<(), TransactionError> {
    for lane in reversing(acceptances) {
        let sql = "SELECT pg_advisory_xact_lock(hashtextextended('postern reversals of ' || $1, 0))";
        sqlx::query(sql).bind(lane).execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}

/// Whether something that a reversal depends on has been reverted since it was made.
async fn is_outdated(
    connection: &mut PgConnection,
    Acceptance { operation, reverted_since, .. }: &Acceptance,
) -> Result<bool, TransactionError> {
    let lane = &operation.submission.configuration;
    let Some((reversal, known)) = operation.submission.change.reversal().zip(reverted_since.as_ref()) else {
        return Ok(false);
    };
    let since = read::reverted_since(connection, reversal.operation(), lane).await;
    Ok(reversal.depends_on(&since.map_err(TransactionError::Content)?) != *known)
}

/// Frees the keys of acceptances that are refused.
async fn give_back(
    connection: &mut PgConnection,
    refused: impl ExactSizeIterator<Item = &OperationId>,
) -> Result<(), TransactionError> {
    if refused.len() == 0 {
        return Ok(());
    }
    sqlx::query("DELETE FROM idempotency_keys WHERE operation = ANY($1)")
        .bind(refused.map(OperationId::to_string).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed)
}

/// Counts what is pending. Each half is served by a partial index on its state.
async fn pending(connection: &mut PgConnection) -> Result<PendingCapacity, TransactionError> {
    let found = sqlx::query_as(
        "SELECT configuration, count(*), FALSE FROM operations WHERE state IN ('queued', 'running') GROUP BY configuration
         UNION ALL
         SELECT configuration, count(*), TRUE FROM operations WHERE state = 'awaiting_approval' GROUP BY configuration",
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    Ok(PendingCapacity::new(found.into_iter().map(|(configuration, number, awaiting)| {
        let wait = if awaiting { Wait::Approval } else { Wait::Turn };
        Pending { configuration, number, wait }
    })))
}

async fn insert_operations(connection: &mut PgConnection, new: &[&Acceptance]) -> Result<(), TransactionError> {
    if new.is_empty() {
        return Ok(());
    }
    let mut submissions = Vec::with_capacity(new.len());
    let mut fates = Vec::with_capacity(new.len());
    for Acceptance { operation, .. } in new {
        submissions.push(to_json("submission", &operation.submission).map_err(TransactionError::Content)?);
        fates.push(to_json("fate", &operation.state).map_err(TransactionError::Content)?);
    }
    let operations = || new.iter().map(|it| &it.operation);
    sqlx::query(
        "INSERT INTO operations (id, configuration, caller, ticket, state, submission, fate, until_at, reverts,
             approval_until, callback_destination, callback_state, callback_due)
         SELECT id, configuration, caller, ticket, state, submission, fate, until_at, reverts, approval_until, destination,
             CASE WHEN destination IS NOT NULL THEN 'pending' END,
             CASE WHEN destination IS NOT NULL THEN to_timestamp(0) END
         FROM unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::TEXT[],
                     $8::BIGINT[], $9::TEXT[], $10::BIGINT[], $11::TEXT[]) WITH ORDINALITY
              AS new (id, configuration, caller, ticket, state, submission, fate, until_at, reverts, approval_until,
                      destination, place)
         ORDER BY place",
    )
    .bind(operations().map(|it| it.id.to_string()).collect::<Vec<_>>())
    .bind(operations().map(|it| it.submission.configuration.as_str()).collect::<Vec<_>>())
    .bind(operations().map(|it| it.submission.caller.as_str()).collect::<Vec<_>>())
    .bind(operations().map(|it| it.submission.ticket.as_deref()).collect::<Vec<_>>())
    .bind(operations().map(|it| it.state.name()).collect::<Vec<_>>())
    .bind(submissions)
    .bind(fates)
    .bind(operations().map(|it| until_at(&it.submission)).collect::<Vec<_>>())
    .bind(operations().map(|it| reverts(&it.submission)).collect::<Vec<_>>())
    .bind(operations().map(|it| approval_until(&it.submission)).collect::<Vec<_>>())
    .bind(operations().map(|it| destination(&it.submission)).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed)
}

/// What a key stands for that another acceptance of the same transaction has taken.
fn meet(first: &Acceptance, key: &IdempotencyKey) -> Accepted {
    let same = first.key.as_ref().is_some_and(|known| known.fingerprint == key.fingerprint);
    if same { Accepted::Replayed(Box::new(first.operation.clone())) } else { Accepted::KeyReused(first.operation.id) }
}
