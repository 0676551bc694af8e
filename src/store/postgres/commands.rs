//! The SQL of the writing verbs. Each function runs inside a transaction that `backend` opens and commits.
//!
//! Leases and pauses expire by the database's time. To avoid deadlocks, all replicas lock in one order: of the commands of a
//! transaction, acceptances come first (and of these, the locks of reversals), then lanes by name, and within a lane its own
//! row, then its operations in order of acceptance. Purging and claiming callbacks come last and wait for no lock.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    super::{
        Claim, Claimed, Error, Holder, Lease, Parking, PolicySetsSeen, Settlement, Turn, UnsettledWrites,
        audit_batch::AuditBatch,
        commands::{CommandOutput, CommandResult, WriteCommand},
        rows::{
            Announcement, OPERATION, announced, count, ended_at, replaced_sets, replaced_sets_since, to_json,
            unreadable,
        },
        writer::TransactionError,
    },
    accept::{self, CapacityCache},
    callbacks, failed,
    rows::{self, micros},
    trail,
    unleased::{self, Places},
};
use crate::{
    audit::{Entry, Event},
    domain::{Digest, Operation, OperationId, State},
};

/// Carries out the commands of one transaction. An error rolls back all of them; an error in an outcome concerns that
/// command alone.
pub(super) async fn apply(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    capacity: &mut CapacityCache,
    commands: &[WriteCommand],
) -> Result<Vec<CommandResult>, TransactionError> {
    let acceptances: Vec<_> = commands
        .iter()
        .filter_map(|command| if let WriteCommand::Accept(it) = command { Some(&**it) } else { None })
        .collect();
    let mut accepted = accept::accept(connection, audit, capacity, &acceptances).await?.into_iter();
    let singled = unleased::places(connection, commands).await?;
    let mut order: Vec<_> = commands.iter().enumerate().collect();
    order.sort_by_key(|(_, command)| (comes_last(command), locks(command, &singled)));
    let mut outcomes = Vec::with_capacity(commands.len());
    for (place, command) in order {
        let outcome = match command {
            WriteCommand::Accept(_) => {
                accepted.next().map_or(Ok(CommandOutput::Written), |it| Ok(CommandOutput::Accepted(it)))
            }
            WriteCommand::Cancel(cancellation) => {
                Ok(CommandOutput::Cancelled(unleased::cancel(connection, audit, cancellation).await?))
            }
            WriteCommand::SettleUntil(settlement) => {
                Ok(CommandOutput::UntilSettled(unleased::settle_without_reversal(connection, audit, settlement).await?))
            }
            WriteCommand::AnswerApproval(reply) => {
                Ok(CommandOutput::Answered(unleased::answer_approval(connection, audit, reply).await?))
            }
            WriteCommand::ClaimCallbacks(claim) => {
                Ok(CommandOutput::Attempts(callbacks::claim(connection, claim).await?))
            }
            WriteCommand::RecordAttempt(it) => {
                Ok(CommandOutput::Flag(callbacks::record_attempt(connection, audit, it).await?))
            }
            WriteCommand::ResendCallback(it) => {
                Ok(CommandOutput::Flag(callbacks::resend(connection, audit, it).await?))
            }
            WriteCommand::NotePolicySets(seen) => {
                note_policy_sets(connection, audit, seen).await?;
                Ok(CommandOutput::Written)
            }
            WriteCommand::AppendRecords(entries) => {
                audit.add_all(entries);
                Ok(CommandOutput::Written)
            }
            WriteCommand::Claim(wanted, until) => {
                Ok(CommandOutput::Claimed(claim(connection, audit, wanted, *until).await?))
            }
            WriteCommand::BeginWrite(holder, announced, ttl) => {
                begin_write(connection, holder, announced, *ttl).await?
            }
            WriteCommand::Settle(holder, settlement) => settle(connection, audit, holder, settlement).await?,
            WriteCommand::Park(holder, parking) => park(connection, audit, holder, parking).await?,
            WriteCommand::Purge(purge) => Ok(CommandOutput::Purged(unleased::purge(connection, purge).await?)),
            WriteCommand::ClaimSink(claim) => {
                Ok(CommandOutput::SinkClaimed(trail::claim_sink(connection, claim).await?))
            }
            WriteCommand::Probe => {
                let sql = "INSERT INTO probe (one, probed_at) VALUES (1, clock_timestamp())
                     ON CONFLICT (one) DO UPDATE SET probed_at = EXCLUDED.probed_at";
                sqlx::query(sql).execute(&mut *connection).await.map_err(failed)?;
                Ok(CommandOutput::Written)
            }
        };
        outcomes.push((place, outcome));
    }
    outcomes.sort_by_key(|(place, _)| *place);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Whether a command locks rows of many lanes, skipping those that are locked.
fn comes_last(command: &WriteCommand) -> bool {
    matches!(command, WriteCommand::Purge(_) | WriteCommand::ClaimCallbacks(_))
}

/// Which rows a command locks: those of a lane, and if it is about a single operation, that one's position.
fn locks<'a>(command: &'a WriteCommand, singled: &'a Places) -> Option<(&'a str, Option<i64>)> {
    match command {
        WriteCommand::Claim(claim, _) => Some((claim.configuration.as_str(), None)),
        WriteCommand::BeginWrite(holder, ..) | WriteCommand::Settle(holder, _) | WriteCommand::Park(holder, _) => {
            Some((holder.configuration.as_str(), None))
        }
        WriteCommand::NotePolicySets(seen) => Some((seen.configuration.as_str(), None)),
        WriteCommand::Cancel(_)
        | WriteCommand::SettleUntil(_)
        | WriteCommand::AnswerApproval(_)
        | WriteCommand::RecordAttempt(_)
        | WriteCommand::ResendCallback(_) => {
            let place = unleased::single(command).and_then(|operation| singled.get(&operation));
            place.map(|(lane, position)| (lane.as_str(), Some(*position)))
        }
        WriteCommand::Accept(_)
        | WriteCommand::ClaimCallbacks(_)
        | WriteCommand::AppendRecords(_)
        | WriteCommand::Purge(_)
        | WriteCommand::ClaimSink(_)
        | WriteCommand::Probe => None,
    }
}

/// Updates the row of a lane if this holder still has it: the SQL of the change, then the values bound in it, from `$4`.
macro_rules! if_held {
    ($connection:expr, $holder:expr, $set:literal $(, $value:expr)*) => {{
        let sql = concat!("UPDATE lanes SET ", $set, " WHERE configuration = $1 AND owner = $2 AND fencing = $3");
        let holder: &Holder = $holder;
        let changed = sqlx::query(sql)
            .bind(holder.configuration.as_str())
            .bind(&holder.owner)
            .bind(holder.fencing)
            $(.bind($value))*
            .execute(&mut *$connection)
            .await
            .map_err(failed)?;
        if changed.rows_affected() == 1 { Ok(CommandOutput::Written) } else { Err(Error::LeaseLost(holder.configuration.clone())) }
    }};
}

async fn claim(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    claim: &Claim,
    until: Duration,
) -> Result<Claimed, TransactionError> {
    // The first two conditions check without locking, the cheaper one first: finished work leaves entries in the index, which
    // the other has to step over until they are vacuumed.
    let taken = sqlx::query(
        "INSERT INTO lanes (configuration, owner, fencing, lease_until)
         SELECT $1, $2, 1, clock_timestamp() + $3 * INTERVAL '1 microsecond'
         WHERE NOT EXISTS (SELECT FROM lanes WHERE configuration = $1
                           AND (lease_until > clock_timestamp() OR not_before > clock_timestamp()))
           AND EXISTS (SELECT FROM operations WHERE configuration = $1 AND state IN ('queued', 'running'))
         ON CONFLICT (configuration) DO UPDATE SET owner = $2, fencing = lanes.fencing + 1, not_before = NULL,
             lease_until = clock_timestamp() + $3 * INTERVAL '1 microsecond'
         WHERE (lanes.lease_until IS NULL OR lanes.lease_until <= clock_timestamp())
           AND (lanes.not_before IS NULL OR lanes.not_before <= clock_timestamp())
         RETURNING fencing, intent, doubts, left_digest, replaced_sets, attempts,
             (extract(epoch FROM clock_timestamp() - replaced_at) * 1000000)::BIGINT AS replaced_age",
    )
    .bind(claim.configuration.as_str())
    .bind(&claim.owner)
    .bind(micros(claim.ttl))
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let Some(taken) = taken else { return without_turn(connection, claim).await };
    let mut turn = granted(&taken, claim, until).map_err(TransactionError::Content)?;
    let pending = pending(connection, claim).await?;
    if pending.is_empty() {
        // Between that check and our lock, another replica settled them, or they were cancelled.
        let given_back = if_held!(connection, &turn.lease.holder(), "owner = NULL, lease_until = NULL");
        return given_back.map(|_done| Claimed::Nothing).map_err(TransactionError::Content);
    }
    turn.operations = start(connection, pending, claim).await?;
    audit.add(&Entry {
        at: claim.at,
        trace_id: claim.trace_id.clone(),
        event: Event::Started {
            configuration: claim.configuration.to_string(),
            operations: turn.operations.iter().map(|operation| operation.id).collect(),
            lease: turn.lease.fencing,
        },
    });
    Ok(Claimed::Turn(Box::new(turn)))
}

/// Why a lane was not taken.
async fn without_turn(connection: &mut PgConnection, claim: &Claim) -> Result<Claimed, TransactionError> {
    let sql = "SELECT EXISTS (SELECT FROM lanes WHERE configuration = $1 AND lease_until > clock_timestamp())";
    let held =
        sqlx::query_scalar(sql).bind(claim.configuration.as_str()).fetch_one(connection).await.map_err(failed)?;
    Ok(if held { Claimed::Held } else { Claimed::Nothing })
}

/// The turn granted to a claim, without its operations.
fn granted(taken: &sqlx::postgres::PgRow, claim: &Claim, until: Duration) -> Result<Turn, Error> {
    let left: Option<&str> = rows::column(taken, "left_digest")?;
    let attempts: i64 = rows::column(taken, "attempts")?;
    Ok(Turn {
        lease: Lease::granted(claim, rows::column(taken, "fencing")?, until),
        operations: Vec::new(),
        announced: announced(rows::column(taken, "intent")?, rows::column(taken, "doubts")?)?,
        left: left.map(Digest::from_stored),
        replaced_sets: replaced_sets_since(
            rows::column(taken, "replaced_sets")?,
            rows::column(taken, "replaced_age")?,
        )?,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
    })
}

/// The operations to take up, locked: another replica that cancels one of them has done so by now, or is too late.
async fn pending(connection: &mut PgConnection, claim: &Claim) -> Result<Vec<Operation>, TransactionError> {
    let sql = format!(
        "SELECT {OPERATION} FROM operations WHERE configuration = $1 AND state IN ('queued', 'running')
         ORDER BY position LIMIT $2 FOR UPDATE"
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(claim.configuration.as_str()).bind(count(claim.batch_max));
    let found = found.fetch_all(connection).await.map_err(failed)?;
    found.iter().map(rows::operation).collect::<Result<_, _>>().map_err(TransactionError::Content)
}

/// Marks operations running where they are not yet. The caller has locked them.
async fn start(
    connection: &mut PgConnection,
    operations: Vec<Operation>,
    claim: &Claim,
) -> Result<Vec<Operation>, TransactionError> {
    let fate = to_json("fate", &State::Running { started_at: claim.at }).map_err(TransactionError::Content)?;
    let queued = operations.iter().filter(|it| it.state == State::Queued).map(|it| it.id.to_string());
    sqlx::query("UPDATE operations SET state = 'running', fate = $1 WHERE id = ANY($2)")
        .bind(fate)
        .bind(queued.collect::<Vec<_>>())
        .execute(connection)
        .await
        .map_err(failed)?;
    let started = |Operation { id, submission, state }| {
        let state = state.start(claim.at).map_err(|error| unreadable("fate", &error))?;
        Ok(Operation { id, submission, state })
    };
    operations.into_iter().map(started).collect::<Result<_, _>>().map_err(TransactionError::Content)
}

async fn begin_write(
    connection: &mut PgConnection,
    holder: &Holder,
    announced: &UnsettledWrites,
    ttl: Duration,
) -> Result<CommandResult, TransactionError> {
    let Announcement { intent, doubts } = Announcement::of(announced).map_err(TransactionError::Content)?;
    Ok(if_held!(
        connection,
        holder,
        "intent = $4, doubts = $5, lease_until = clock_timestamp() + $6 * INTERVAL '1 microsecond'",
        intent,
        doubts,
        micros(ttl)
    ))
}

async fn settle(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    holder: &Holder,
    settlement: &Settlement,
) -> Result<CommandResult, TransactionError> {
    let announced = settlement.part.announced().map(Announcement::of).transpose().map_err(TransactionError::Content)?;
    let Announcement { intent, doubts } = announced.unwrap_or_default();
    let outcome = if_held!(
        connection,
        holder,
        "intent = CASE WHEN $6 THEN intent ELSE $7 END, doubts = CASE WHEN $6 THEN doubts ELSE $8 END,
         left_digest = COALESCE($4, left_digest), replaced_sets = $9, replaced_at = clock_timestamp(),
         attempts = 0, parked_because = NULL,
         owner = CASE WHEN $5::BIGINT IS NULL THEN NULL ELSE owner END,
         lease_until = clock_timestamp() + $5 * INTERVAL '1 microsecond'",
        settlement.left.as_ref().map(Digest::as_str),
        settlement.keep.map(micros),
        settlement.part.announced().is_none(),
        intent,
        doubts,
        replaced_sets(&settlement.replaced_sets).map_err(TransactionError::Content)?
    );
    if outcome.is_ok() {
        end(connection, holder, &settlement.ended).await?;
        audit.add_all(&settlement.entries);
    }
    Ok(outcome)
}

/// Stores how operations ended; each must be running on the holder's lane, or the whole transaction is rolled back. They are
/// found by their ids only: if the other conditions were not hidden in a `CASE`, or the ids were joined, PostgreSQL would at
/// times scan all that is and was pending on the lane, or all operations.
async fn end(
    connection: &mut PgConnection,
    holder: &Holder,
    ended: &[(OperationId, State)],
) -> Result<(), TransactionError> {
    let mut fates = Vec::with_capacity(ended.len());
    for (_, state) in ended {
        fates.push(to_json("fate", state).map_err(TransactionError::Content)?);
    }
    let changed = sqlx::query(
        "UPDATE operations SET state = ($2::TEXT[])[array_position($1::TEXT[], id)],
             fate = ($3::TEXT[])[array_position($1, id)], ended_at = ($4::BIGINT[])[array_position($1, id)]
         WHERE position = ANY(ARRAY(
             SELECT position FROM operations
             WHERE id = ANY($1) AND CASE WHEN state = 'running' AND configuration = $5 THEN true ELSE false END
             ORDER BY position FOR UPDATE))",
    )
    .bind(ended.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>())
    .bind(ended.iter().map(|(_, state)| state.name()).collect::<Vec<_>>())
    .bind(fates)
    .bind(ended.iter().map(|(_, state)| ended_at(state)).collect::<Vec<_>>())
    .bind(holder.configuration.as_str())
    .execute(connection)
    .await
    .map_err(failed)?
    .rows_affected();
    let changed = usize::try_from(changed).unwrap_or(usize::MAX);
    if changed == ended.len() { Ok(()) } else { Err(TransactionError::Content(holder.wrong(ended.len(), changed))) }
}

async fn note_policy_sets(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    seen: &PolicySetsSeen,
) -> Result<(), TransactionError> {
    let PolicySetsSeen { configuration, assignments, loss } = seen;
    let statement = if assignments.is_empty() {
        sqlx::query("DELETE FROM policy_sets WHERE configuration = $1").bind(configuration.as_str())
    } else {
        let sql = "INSERT INTO policy_sets (configuration, seen) VALUES ($1, $2)
             ON CONFLICT (configuration) DO UPDATE SET seen = EXCLUDED.seen";
        let seen = to_json("policy_sets.seen", assignments).map_err(TransactionError::Content)?;
        sqlx::query(sql).bind(configuration.as_str()).bind(seen)
    };
    statement.execute(connection).await.map_err(failed)?;
    audit.add_all(loss.as_slice());
    Ok(())
}

async fn park(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    holder: &Holder,
    parking: &Parking,
) -> Result<CommandResult, TransactionError> {
    let Announcement { intent, doubts } = Announcement::of(&parking.announced).map_err(TransactionError::Content)?;
    let outcome = if_held!(
        connection,
        holder,
        "owner = NULL, lease_until = NULL, attempts = attempts + 1, parked_because = $4,
         not_before = clock_timestamp() + $5 * INTERVAL '1 microsecond', intent = $6,
         doubts = $7, left_digest = COALESCE($8, left_digest), replaced_sets = $9,
         replaced_at = clock_timestamp()",
        &parking.because,
        micros(parking.pause),
        intent,
        doubts,
        parking.left.as_ref().map(Digest::as_str),
        replaced_sets(&parking.replaced_sets).map_err(TransactionError::Content)?
    );
    if outcome.is_ok() {
        end(connection, holder, &parking.ended).await?;
        audit.add_all(&parking.entries);
    }
    Ok(outcome)
}
