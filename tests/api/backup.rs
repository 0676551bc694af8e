//! Backup and restore as the handbook describes, with a gateway at work.

use std::fs;

use crate::{
    process::{Process, traceparent, vacant},
    runbook::run_block,
    world::{SALES_ESP, add, group},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_backed_up_while_in_use_and_restored_with_all_that_was_in_it() {
    let mut world = vacant().await;
    // A lane with a write in flight stays locked until its owner's lease expires, after a restore too.
    let brief = [("POSTERN__GRAPH__CALL_TIMEOUT", "5s"), ("POSTERN__EXECUTOR__LEASE_TTL", "11s")];
    let process = Process::start(&world, &brief);
    let done = process.post(&world, &add("Sales ESP", &group(1)), &traceparent(1)).await.expect(202).id();
    process.end_of(&world, &done).await.succeeded("changed");
    // One is in flight while the copy is made.
    world.hold("/assign").await;
    let pending = process.post(&world, &add("Sales ESP", &group(2)), &traceparent(2)).await.expect(202).id();
    world.held(1).await;
    let folder = tempfile::tempdir().unwrap();
    let (store, backup) = (world.store().display().to_string(), folder.path().join("backup.db").display().to_string());
    let variables = [("STORE", store.as_str()), ("BACKUP", backup.as_str())];
    let verified = run_block("backup-sqlite", folder.path(), &variables);
    assert!(verified.contains("every hash fits"), "{verified}");
    world.clear_faults().await;
    process.end_of(&world, &pending).await.succeeded("changed");
    let lost = process.post(&world, &add("Sales ESP", &group(1)), &traceparent(3)).await.expect(202).id();
    process.end_of(&world, &lost).await.succeeded("unchanged");
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");

    fs::write(world.store(), "what a failing disk leaves").unwrap();
    let restored = run_block("restore-sqlite", folder.path(), &variables);
    assert_eq!(restored, verified, "the same records, the same newest hash");
    let process = Process::start(&world, &brief);
    process.end_of(&world, &done).await.succeeded("changed");
    // Its write took effect after the copy was made. Reading the set shows this, so it is not repeated.
    process.end_of(&world, &pending).await.succeeded("changed");
    assert_eq!(world.assigns().await.len(), 2);
    let after = process.post(&world, &add("Sales ESP", &group(7)), &traceparent(4)).await.expect(202).id();
    process.end_of(&world, &after).await.succeeded("changed");
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    let groups = world.groups(SALES_ESP).await;
    assert!([1, 2, 7].iter().all(|number| groups.contains(&group(*number))), "{groups:?}");
    world.start_gateway().await;
    let asked = world.get("servicenow", &format!("/v1/operations/{lost}")).await;
    asked.problem(404, "unknown-operation");
    world.end().await;
}
