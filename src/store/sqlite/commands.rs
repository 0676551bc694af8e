//! The SQL of the writing verbs. Each function runs inside a transaction that `backend` opens and commits.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{
    super::{
        Claim, Claimed, Error, Holder, Lease, Parking, PolicySetsSeen, Run, Settlement, Turn, UnsettledWrites,
        audit_batch::AuditBatch,
        capacity::PendingCapacity,
        commands::{CommandOutput, CommandResult, WriteCommand},
        rows::{
            Announcement, announced, count, ended_at, micros, replaced_sets, replaced_sets_since, to_json, unreadable,
        },
    },
    accept::AcceptanceBatch,
    callbacks,
    rows::{all, change, column, one, optional_text, text},
    trail, unleased,
};
use crate::{
    audit::{Entry, Event, Head},
    clock,
    domain::{Digest, OperationId, State},
};

/// Voids the leases of earlier runs (the lock file proves that they are over) and begins this run's chain. Where a run ended
/// with a write under way, its lease is left to expire: Graph may still be carrying out that write, and it must not overwrite
/// a later one.
pub(super) fn begin_run(connection: &Connection, run: &Run) -> Result<Head, Error> {
    let ends = trail::chain_heads(connection)?;
    let (head, opening) = Head::open(run.chain.clone(), &ends, env!("CARGO_PKG_VERSION"));
    let mut audit = AuditBatch::new(head);
    audit.add(&Entry { at: run.clock.now(), trace_id: None, event: opening });
    trail::write(connection, &audit)?;
    change(
        connection,
        "UPDATE lanes SET owner = NULL, lease_until = NULL WHERE owner IS NOT NULL AND intent IS NULL",
        [],
    )?;
    change(connection, "UPDATE deliveries SET owner = NULL, lease_until = NULL", [])?;
    callbacks::begin_run(connection)?;
    Ok(audit.head)
}

/// Carries out the commands of one transaction. An error rolls back all of them; an error in an outcome concerns that
/// command alone.
pub(super) fn apply(
    connection: &Connection,
    capacity: &mut Option<PendingCapacity>,
    (audit, now): (&mut AuditBatch, Timestamp),
    commands: &[WriteCommand],
) -> Result<Vec<CommandResult>, Error> {
    let mut accepting = AcceptanceBatch::new(capacity);
    let mut outcomes = Vec::with_capacity(commands.len());
    for command in commands {
        let outcome = match command {
            WriteCommand::Accept(it) => Ok(CommandOutput::Accepted(accepting.accept(connection, audit, it)?)),
            WriteCommand::Cancel(cancellation) => {
                Ok(CommandOutput::Cancelled(unleased::cancel(connection, audit, cancellation)?))
            }
            WriteCommand::SettleUntil(settlement) => {
                Ok(CommandOutput::UntilSettled(unleased::settle_without_reversal(connection, audit, settlement)?))
            }
            WriteCommand::AnswerApproval(reply) => {
                Ok(CommandOutput::Answered(unleased::answer_approval(connection, audit, reply)?))
            }
            WriteCommand::ClaimCallbacks(claim) => {
                Ok(CommandOutput::Attempts(callbacks::claim(connection, now, claim)?))
            }
            WriteCommand::RecordAttempt(it) => {
                Ok(CommandOutput::Flag(callbacks::record_attempt(connection, audit, now, it)?))
            }
            WriteCommand::ResendCallback(it) => Ok(CommandOutput::Flag(callbacks::resend(connection, audit, it)?)),
            WriteCommand::NotePolicySets(seen) => {
                note_policy_sets(connection, audit, seen)?;
                Ok(CommandOutput::Written)
            }
            WriteCommand::AppendRecords(entries) => {
                audit.add_all(entries);
                Ok(CommandOutput::Written)
            }
            WriteCommand::Claim(wanted, until) => {
                let turn = claim(connection, audit, now, wanted)?;
                let granted = |mut turn: Turn| {
                    turn.lease.until = *until;
                    Box::new(turn)
                };
                Ok(CommandOutput::Claimed(turn.map_or(Claimed::Nothing, |turn| Claimed::Turn(granted(turn)))))
            }
            WriteCommand::BeginWrite(holder, announced, ttl) => {
                begin_write(connection, holder, announced, clock::after(now, *ttl))?
            }
            WriteCommand::Settle(holder, settlement) => settle(connection, audit, now, (holder, settlement))?,
            WriteCommand::Park(holder, parking) => park(connection, audit, now, (holder, parking))?,
            WriteCommand::Purge(purge) => Ok(CommandOutput::Purged(unleased::purge(connection, purge)?)),
            WriteCommand::ClaimSink(claim) => {
                Ok(CommandOutput::SinkClaimed(trail::claim_sink(connection, now, claim)?))
            }
            WriteCommand::Probe => {
                let sql = "INSERT INTO probe (one, probed_at) VALUES (1, ?1) ON CONFLICT DO UPDATE SET probed_at = ?1";
                change(connection, sql, [micros(now)])?;
                Ok(CommandOutput::Written)
            }
        };
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Takes the lane, and marks what it is to work on. The turn is returned without its operations: reading them takes longer
/// than all of this, and need not hold up the writer.
fn claim(
    connection: &Connection,
    audit: &mut AuditBatch,
    now: Timestamp,
    claim: &Claim,
) -> Result<Option<Turn>, Error> {
    let taken = one(
        connection,
        "INSERT INTO lanes (configuration, owner, fencing, lease_until)
         SELECT ?1, ?2, 1, ?3
         WHERE EXISTS (SELECT 1 FROM operations INDEXED BY operations_pending
                       WHERE configuration = ?1 AND state = 'queued')
         ON CONFLICT (configuration) DO UPDATE SET owner = ?2, fencing = fencing + 1, lease_until = ?3, not_before = NULL
         WHERE (lease_until IS NULL OR lease_until <= ?4) AND (not_before IS NULL OR not_before <= ?4)
         RETURNING fencing, intent, doubts, left_digest, replaced_sets, ?4 - replaced_at AS replaced_age, attempts",
        params![
            claim.configuration.as_str(),
            claim.owner,
            micros(clock::after(now, claim.ttl)),
            micros(now)
        ],
        |row| {
            Ok(Turn {
                lease: Lease::granted(claim, column(row, "fencing")?, Duration::ZERO),
                operations: Vec::new(),
                announced: announced(optional_text(row, "intent")?, optional_text(row, "doubts")?)?,
                left: optional_text(row, "left_digest")?.map(Digest::from_stored),
                replaced_sets: replaced_sets_since(optional_text(row, "replaced_sets")?, column(row, "replaced_age")?)?,
                attempts: column(row, "attempts")?,
            })
        },
    )?;
    let Some(turn) = taken else { return Ok(None) };
    audit.add(&Entry {
        at: claim.at,
        trace_id: claim.trace_id.clone(),
        event: Event::Started {
            configuration: claim.configuration.to_string(),
            operations: start(connection, claim)?,
            lease: turn.lease.fencing,
        },
    });
    Ok(Some(turn))
}

/// Marks the oldest pending operations as running, where they are not yet, and returns all their ids. The index is named,
/// since without statistics SQLite picks another.
fn start(connection: &Connection, claim: &Claim) -> Result<Vec<OperationId>, Error> {
    let configuration = claim.configuration.as_str();
    let pending = all(
        connection,
        "SELECT position, id FROM operations INDEXED BY operations_pending
         WHERE configuration = ? AND state = 'queued' ORDER BY position LIMIT ?",
        params![configuration, count(claim.batch_max)],
        |row| {
            let id = text(row, "id")?.parse().map_err(|error| unreadable("operations.id", &error))?;
            Ok((column(row, "position")?, id))
        },
    )?;
    let last: Option<i64> = pending.last().map(|(position, _)| *position);
    let sql = "INSERT INTO running SELECT position, ? FROM operations INDEXED BY operations_pending
               WHERE configuration = ? AND state = 'queued' AND position <= ? ON CONFLICT DO NOTHING";
    change(connection, sql, params![micros(claim.at), configuration, last])?;
    Ok(pending.into_iter().map(|(_, id)| id).collect())
}

/// Updates the row of a lane if this holder still has it: the SQL of the change, then the values bound in it.
macro_rules! if_held {
    ($connection:expr, $holder:expr, $set:literal $(, $value:expr)*) => {{
        let sql = concat!("UPDATE lanes SET ", $set, " WHERE configuration = ? AND owner = ? AND fencing = ?");
        let holder: &Holder = $holder;
        let values = params![$($value,)* holder.configuration.as_str(), holder.owner, holder.fencing];
        let changed = change($connection, sql, values)?;
        if changed == 1 { Ok(CommandOutput::Written) } else { Err(Error::LeaseLost(holder.configuration.clone())) }
    }};
}

fn begin_write(
    connection: &Connection,
    holder: &Holder,
    announced: &UnsettledWrites,
    until: Timestamp,
) -> Result<CommandResult, Error> {
    let Announcement { intent, doubts } = Announcement::of(announced)?;
    Ok(if_held!(connection, holder, "intent = ?, doubts = ?, lease_until = ?", intent, doubts, micros(until)))
}

fn settle(
    connection: &Connection,
    audit: &mut AuditBatch,
    now: Timestamp,
    (holder, settlement): (&Holder, &Settlement),
) -> Result<CommandResult, Error> {
    let left = settlement.left.as_ref().map(Digest::as_str);
    let Announcement { intent, doubts } =
        settlement.part.announced().map(Announcement::of).transpose()?.unwrap_or_default();
    let kept = |ttl| (Some(&holder.owner), Some(micros(clock::after(now, ttl))));
    let (owner, until) = settlement.keep.map_or((None, None), kept);
    let outcome = if_held!(
        connection,
        holder,
        "intent = iif(?, intent, ?), doubts = iif(?, doubts, ?), left_digest = COALESCE(?, left_digest),
         replaced_sets = ?, replaced_at = ?, attempts = 0, parked_because = NULL, owner = ?, lease_until = ?",
        settlement.part.announced().is_none(),
        intent,
        settlement.part.announced().is_none(),
        doubts,
        left,
        replaced_sets(&settlement.replaced_sets)?,
        micros(now),
        owner,
        until
    );
    if outcome.is_ok() {
        end_all(connection, holder, &settlement.ended)?;
        audit.add_all(&settlement.entries);
    }
    Ok(outcome)
}

/// Stores how operations ended; each must be running on the holder's lane, or the whole transaction is rolled back.
fn end_all(connection: &Connection, holder: &Holder, ended: &[(OperationId, State)]) -> Result<(), Error> {
    let mut changed = 0_usize;
    for (id, state) in ended {
        let sql = "DELETE FROM running
                   WHERE position = (SELECT position FROM operations WHERE id = ? AND configuration = ?) RETURNING position";
        let running: Option<i64> =
            one(connection, sql, params![id.to_string(), holder.configuration.as_str()], |row| {
                column(row, "position")
            })?;
        let sql = "UPDATE operations SET state = ?, fate = ?, ended_at = ?, room = NULL WHERE position = ?";
        let values = params![state.name(), to_json("fate", state)?, ended_at(state), running];
        changed = changed.saturating_add(change(connection, sql, values)?);
    }
    if changed == ended.len() { Ok(()) } else { Err(holder.wrong(ended.len(), changed)) }
}

fn note_policy_sets(connection: &Connection, audit: &mut AuditBatch, seen: &PolicySetsSeen) -> Result<(), Error> {
    let PolicySetsSeen { configuration, assignments, loss } = seen;
    if assignments.is_empty() {
        change(connection, "DELETE FROM policy_sets WHERE configuration = ?", [configuration.as_str()])?;
    } else {
        let sql = "INSERT INTO policy_sets (configuration, seen) VALUES (?, ?)
                   ON CONFLICT (configuration) DO UPDATE SET seen = excluded.seen";
        change(connection, sql, params![configuration.as_str(), to_json("policy_sets.seen", assignments)?])?;
    }
    audit.add_all(loss.as_slice());
    Ok(())
}

fn park(
    connection: &Connection,
    audit: &mut AuditBatch,
    now: Timestamp,
    (holder, parking): (&Holder, &Parking),
) -> Result<CommandResult, Error> {
    let Announcement { intent, doubts } = Announcement::of(&parking.announced)?;
    let outcome = if_held!(
        connection,
        holder,
        "owner = NULL, lease_until = NULL, not_before = ?, parked_because = ?, attempts = attempts + 1, intent = ?, doubts = ?,
         left_digest = COALESCE(?, left_digest), replaced_sets = ?, replaced_at = ?",
        micros(clock::after(now, parking.pause)),
        &parking.because,
        intent,
        doubts,
        parking.left.as_ref().map(Digest::as_str),
        replaced_sets(&parking.replaced_sets)?,
        micros(now)
    );
    if outcome.is_ok() {
        end_all(connection, holder, &parking.ended)?;
        audit.add_all(&parking.entries);
    }
    Ok(outcome)
}
