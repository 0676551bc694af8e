//! Runs every fault point.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    plan::{Call, Fault, Faults, Moment, Plan},
    scenario::{Disk, Scenario, strikes},
};

/// Scenarios at once.
const AT_ONCE: usize = 4;

const MOMENTS: [Moment; 2] = [Moment::Before, Moment::After];

/// Runs one scenario; returns how often the plan struck.
fn run_scenario(disk: Disk, plan: Plan) -> usize {
    let scenario = Scenario::begin(disk, plan);
    let faults = Arc::new(Faults::planned(plan));
    if !scenario.live(&faults) {
        assert!(scenario.live(&Arc::default()), "the next life does it all");
    }
    scenario.check();
    strikes(&faults)
}

/// Runs all of them. Every scenario makes the first call of each kind, so a plan for it must strike.
fn run_all(disk: Disk, plans: Vec<Plan>) {
    let count = plans.len();
    let plans = Mutex::new(plans.into_iter());
    let (failed, struck) = (Mutex::new(Vec::new()), Mutex::new(0));
    let next = || plans.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(plan) = next() {
                    match catch_unwind(AssertUnwindSafe(|| run_scenario(disk, plan))) {
                        Ok(faults) if faults > 0 || plan.nth > 1 => *struck.lock().unwrap() += faults.min(1),
                        Ok(_) | Err(_) => failed.lock().unwrap().push(plan),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    eprintln!("{disk:?}: stories: {count}, struck: {}", struck.into_inner().unwrap());
    assert!(failed.is_empty(), "{failed:#?}");
}

fn stops(calls: &[Call], nths: &[usize]) -> Vec<Plan> {
    let plan = |call, nth, moment| Plan { call, nth, times: 1, fault: Fault::Stop(moment) };
    let of_call = |call: &Call| {
        let call = *call;
        nths.iter().flat_map(move |nth| MOMENTS.map(|moment| plan(call, *nth, moment)))
    };
    calls.iter().flat_map(of_call).collect()
}

fn failures(calls: &[Call]) -> Vec<Plan> {
    let plan = |call, times, moment| Plan { call, nth: 1, times, fault: Fault::Fail(moment) };
    let of_call = |call: &Call| {
        let call = *call;
        [1, 3].into_iter().flat_map(move |times| MOMENTS.map(|moment| plan(call, times, moment)))
    };
    calls.iter().flat_map(of_call).collect()
}

fn of_the_store() -> Vec<Call> {
    Call::ALL.into_iter().filter(|call| call.is_of_the_store()).collect()
}

#[test]
fn a_gateway_that_stops_before_or_after_any_call_loses_and_doubles_nothing() {
    run_all(Disk::Sqlite, stops(&Call::ALL, &[1, 2, 3]));
}

#[test]
fn a_replica_that_stops_before_or_after_any_verb_of_the_store_is_replaced() {
    run_all(Disk::Postgres, stops(&of_the_store(), &[1]));
}

#[test]
fn work_resumes_by_itself_after_any_call_has_failed_once_or_repeatedly() {
    run_all(Disk::Sqlite, failures(&Call::ALL));
}

#[test]
fn work_resumes_by_itself_after_a_panic_in_a_lane() {
    let calls = [Call::Claim, Call::BeginWrite, Call::Settle, Call::Park, Call::Read, Call::Replace];
    let plan = |call| Plan { call, nth: 1, times: 1, fault: Fault::Panic };
    run_all(Disk::Sqlite, calls.map(plan).to_vec());
}

#[test]
fn work_resumes_by_itself_after_a_panic_of_the_executor() {
    run_all(Disk::Sqlite, vec![Plan { call: Call::OpenLanes, nth: 1, times: 1, fault: Fault::Panic }]);
}

#[test]
fn a_panic_in_one_group_lookup_stops_no_later_lookup() {
    run_all(Disk::Sqlite, vec![Plan { call: Call::Groups, nth: 1, times: 1, fault: Fault::Panic }]);
}
