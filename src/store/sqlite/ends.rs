//! Operations that end without a lane.

use sqlx::SqliteConnection;

use super::{
    super::{
        Cancellation, Cancelled, Error,
        ledger::Ledger,
        rows::{to_json, unreadable},
    },
    read, unavailable,
};
use crate::domain::{Operation, State};

pub(super) async fn cancel(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    cancellation: &Cancellation,
) -> Result<Cancelled, Error> {
    // Nobody else writes during this transaction, so what is queued here is queued until it is cancelled.
    let Some(operation) = read::operation(connection, cancellation.operation).await? else {
        return Ok(Cancelled::Unknown);
    };
    if operation.state != State::Queued {
        return Ok(Cancelled::TooLate(Box::new(operation)));
    }
    let Operation { id, submission, state } = operation;
    let state = state.cancel(cancellation.at).map_err(|error| unreadable("fate", &error))?;
    sqlx::query("UPDATE operations SET state = ?, fate = ? WHERE id = ?")
        .bind(state.name())
        .bind(to_json("fate", &state)?)
        .bind(id.to_string())
        .execute(connection)
        .await
        .map_err(unavailable)?;
    ledger.add(&cancellation.entry);
    Ok(Cancelled::Done(Box::new(Operation { id, submission, state })))
}
