//! Variants that are measured side by side.
//!
//! They are measured in turn, several rounds each, so that other load on the machine affects all alike; a printed
//! figure is the median of its rounds.

use std::time::Duration;

use crate::{
    drive::{Driven, Mode, Pace, Plan, drive, headers},
    environment::{Gateway, Sandbox},
    issuer::Issuer,
};

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    Trial,
}

/// Seconds per round of a variant with a rate.
const SECONDS: u32 = 5;
/// Configurations that changes are spread over, unless a case says otherwise.
const SPREAD: u64 = 10;

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

pub(crate) fn micros(time: Duration, each: u64) -> f64 {
    time.as_secs_f64() * 1e6 / each as f64
}

/// A variant: how it is measured, and its results per round.
pub(crate) struct Row {
    what: &'static str,
    mode: Mode,
    pace: Pace,
    connections: usize,
    cost: Vec<f64>,
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    flushes: Vec<f64>,
    calls: Vec<f64>,
    verbs: Vec<f64>,
    at_once: Vec<f64>,
}

impl Row {
    pub(crate) fn new(what: &'static str, mode: Mode, pace: Pace, connections: usize) -> Self {
        let none = Vec::new;
        Self {
            what,
            mode,
            pace,
            connections,
            cost: none(),
            rate: none(),
            p50: none(),
            p99: none(),
            flushes: none(),
            calls: none(),
            verbs: none(),
            at_once: none(),
        }
    }

    pub(crate) fn note(&mut self, driven: &Driven, cost: f64) {
        self.cost.push(cost);
        self.rate.push(driven.rate());
        self.p50.push(driven.percentile(0.5));
        self.p99.push(driven.percentile(0.99));
    }

    pub(crate) fn print(&self) {
        let told = |figures: &Vec<f64>| {
            if figures.is_empty() { "-".to_owned() } else { format!("{:.4}", median(figures.clone())) }
        };
        println!(
            "{:<44} {:>7.1} us  {:>6.0}/s  p50 {:>7.2} ms  p99 {:>7.2} ms  {} flushes, {} calls to Graph, {} changes a commit, {} within 5 ms by its own clock",
            self.what,
            median(self.cost.clone()),
            median(self.rate.clone()),
            median(self.p50.clone()),
            median(self.p99.clone()),
            told(&self.flushes),
            told(&self.calls),
            told(&self.verbs),
            told(&self.at_once),
        );
    }
}

/// What one variant sends in one round.
pub(crate) fn planned(row: &Row, url: &str, issuer: &Issuer, extent: Extent) -> Plan {
    let changes = match (extent, row.pace) {
        (Extent::Trial, _) => 50,
        (Extent::Whole, Pace::Rate(rate)) => u64::from(rate * SECONDS),
        (Extent::Whole, Pace::Closed) => 15_000,
    };
    Plan {
        urls: vec![url.to_owned()],
        tokens: headers(&issuer.tokens),
        changes,
        configurations: SPREAD,
        pace: row.pace,
        connections: row.connections,
        mode: row.mode,
    }
}

/// What a round measures. Flushes get rounds of their own, because counting them slows the program down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measured {
    Cost,
    Flushes,
}

/// Of the responses between two samples, the share within 5 ms.
pub(crate) fn share_at_once(before: [f64; 2], after: [f64; 2]) -> f64 {
    (after[1] - before[1]) / (after[0] - before[0])
}

/// Runs the plan, waits until everything has ended, and records the total cost per change, calls to Graph included.
pub(crate) async fn ask_gateway(row: &mut Row, plan: &Plan, gateway: &mut Gateway, sandbox: &Sandbox, round: Measured) {
    let ended = gateway.figure("postern_operations_ended_total").await;
    let commits = gateway.figure("postern_store_commit_duration_seconds_count").await;
    let answered = gateway.answered().await;
    let (before, cpu) = (sandbox.calls().await, gateway.process.cpu());
    if round == Measured::Flushes {
        gateway.process.count_flushes();
    }
    let driven = drive(plan).await;
    driven.all_accepted();
    gateway.until_ended(ended as usize + plan.changes as usize).await;
    if round == Measured::Flushes {
        row.flushes.extend(gateway.process.flushes().map(|flushes| flushes as f64 / plan.changes as f64));
        return;
    }
    row.note(&driven, micros(gateway.process.cpu().saturating_sub(cpu), plan.changes));
    row.calls.push(sandbox.calls().await.since(before).all as f64 / plan.changes as f64);
    let commits = gateway.figure("postern_store_commit_duration_seconds_count").await - commits;
    row.verbs.push(plan.changes as f64 / commits);
    row.at_once.push(share_at_once(answered, gateway.answered().await));
}
