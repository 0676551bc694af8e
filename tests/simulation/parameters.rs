//! What a seed decides about a run: sizes, settings, and fault rates.

use std::time::Duration;

use postern::config;

use crate::chance::Chance;

/// Fault rates, per mille of calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) store_before: u64,
    pub(crate) store_after: u64,
    pub(crate) store_slow: u64,
    pub(crate) kill_at_call: u64,
    pub(crate) freeze_at_call: u64,
    pub(crate) notice_lost: u64,
    pub(crate) throttled: u64,
    pub(crate) unavailable: u64,
    pub(crate) unauthorised: u64,
    pub(crate) unreadable: u64,
    pub(crate) stale_read: u64,
    pub(crate) lost_before: u64,
    pub(crate) lost_after: u64,
    pub(crate) delayed: u64,
    pub(crate) hung: u64,
    pub(crate) graph_slow: u64,
    pub(crate) poison: u64,
    pub(crate) hang_up: u64,
    /// Not a fault, but just as rare.
    pub(crate) cancel: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct RunParameters {
    pub(crate) replicas: usize,
    pub(crate) lanes: usize,
    pub(crate) changes: usize,
    pub(crate) edits: usize,
    /// From the first change to the last; faults occur throughout.
    pub(crate) span: Duration,
    pub(crate) kills: usize,
    pub(crate) freezes: usize,
    pub(crate) stops: usize,
    pub(crate) faults: Faults,
    pub(crate) settings: config::Executor,
    /// Timeout of one call to Graph.
    pub(crate) call_timeout: Duration,
    pub(crate) pending_max: usize,
    /// Changes with an `until`, per mille.
    pub(crate) ends: u64,
}

impl RunParameters {
    pub(crate) fn drawn(chance: &mut Chance) -> Self {
        let lease_ttl = chance.millis(20_000, 90_000);
        let settings = config::Executor {
            lanes_max: 1 + chance.below(4),
            batch_max: chance.pick(&[1, 2, 3, 16, 32, 500]),
            lease_ttl,
            sweep_interval: chance.millis(500, 8_000),
            deadline: if chance.hits(200) { chance.millis(20_000, 900_000) } else { Duration::from_hours(24) },
        };
        let fair = chance.hits(125);
        let rough = |chance: &mut Chance, most: usize| if fair { 0 } else { chance.below(most + 1) };
        Self {
            replicas: chance.pick(&[1, 2, 2, 3, 3]),
            lanes: 1 + chance.below(3),
            changes: 10 + chance.below(21),
            edits: chance.below(9),
            span: chance.millis(10_000, 300_000),
            kills: rough(chance, 4),
            freezes: rough(chance, 3),
            stops: rough(chance, 2),
            faults: if fair { Faults::default() } else { Faults::drawn(chance) },
            settings,
            call_timeout: lease_ttl / 3,
            pending_max: chance.pick(&[3, 10, 100, 100]),
            ends: chance.pick(&[0, 0, 0, 0, 0, 0, 0, 400]),
        }
    }
}

impl Faults {
    fn drawn(chance: &mut Chance) -> Self {
        let mut often = || chance.pick(&[0, 0, 0, 5, 20, 60, 150]);
        Self {
            store_before: often() / 2,
            store_after: often(),
            store_slow: often(),
            kill_at_call: often() / 10,
            freeze_at_call: often() / 10,
            notice_lost: often() * 4,
            throttled: often(),
            unavailable: often(),
            unauthorised: often() / 2,
            unreadable: often(),
            stale_read: often(),
            lost_before: often() * 2,
            lost_after: often() * 3,
            delayed: often(),
            hung: often(),
            graph_slow: often(),
            poison: often(),
            hang_up: often(),
            cancel: often() * 4,
        }
    }
}
