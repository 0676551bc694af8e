//! What happens in a story, determined by its seed alone.

use serde_json::{Value, json};

use crate::{
    gateway::{Change, Key},
    tenant::{Assigned, CONFIGURATIONS, group},
};

/// Pseudo-random numbers, identical for the same seed (`SplitMix64`).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn number(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).unwrap()
    }

    fn words(&mut self, among: &[Words]) -> Words {
        among[self.number(u64::try_from(among.len()).unwrap())]
    }

    fn place<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.number(u64::try_from(among.len()).unwrap())]
    }
}

/// What the tenant does to `assign`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    Hold,
    CutAfter,
    CutBefore,
    Unavailable,
}

impl Trouble {
    /// The fault as the sandbox takes it.
    pub(crate) fn order(self) -> Option<Value> {
        let (effect, times) = match self {
            Self::None => return None,
            Self::Hold => return Some(json!({"path_ends": "/assign", "effect": {"kind": "hold"}})),
            Self::CutAfter => (json!({"kind": "cut_after"}), 2),
            Self::CutBefore => (json!({"kind": "cut_before"}), 2),
            Self::Unavailable => (json!({"kind": "answer", "status": 503}), 1),
        };
        Some(json!({"path_ends": "/assign", "times": times, "effect": effect}))
    }
}

/// What the log says of a step: alternatives for SQLite and PostgreSQL where they differ.
pub(crate) type Words = &'static [&'static str];

/// When the gateway is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kill {
    /// At the k-th response, with changes in flight.
    AfterAnswers(usize),
    /// When all are answered and Graph holds a write.
    WhileHeld,
    /// When one of these texts appears in its log for the n-th time.
    AtWords(Words, usize),
}

/// Steps by what the log says of them: a statement is logged after it ran, inside its transaction.
const ACCEPTING: &[Words] = &[&["INTO idempotency_keys"], &["INSERT INTO operations"], &["operation accepted"]];
const CLAIMING: &[Words] =
    &[&["INSERT INTO lanes"], &["INSERT INTO running", "SET state = 'running'"], &["UPDATE lanes SET intent"]];
const SETTLING: &[Words] = &[
    &["operation ended"],
    &["parked_because = NULL"],
    &["DELETE FROM running", "fate = ended.fate"],
    &["INSERT INTO audit"],
];

/// Roughly the number of lines that a start logs.
const LINES_OF_A_START: u64 = 24;

/// From one start of the gateway to the next.
#[derive(Debug)]
pub(crate) struct Cycle {
    pub(crate) trouble: Trouble,
    pub(crate) kill: Kill,
    pub(crate) changes: Vec<Change>,
    /// Starts that are killed early: at the n-th line they log, or once ready if that is sooner.
    pub(crate) stillborn: Vec<usize>,
}

/// Groups that the changes touch; all others must stay as they are.
const GROUPS: [u8; 4] = [1, 2, 3, 6];

impl Cycle {
    pub(crate) fn planned(chance: &mut Chance, number: usize, present: &Assigned) -> Self {
        let troubles =
            [Trouble::None, Trouble::Hold, Trouble::Hold, Trouble::CutAfter, Trouble::CutBefore, Trouble::Unavailable];
        let trouble = *chance.place(&troubles);
        let mut changes = vec![toggle(number, present)];
        let count = 6 + chance.number(6);
        for change in 1..count {
            let (configuration, touched) = (*chance.place(&CONFIGURATIONS), *chance.place(&GROUPS));
            let list = *chance.place(&["add", "add", "remove"]);
            changes.push(change_of(number, change, configuration, (list, touched)));
        }
        let kill = Kill::planned(chance, trouble, count);
        let stillborn = (0..chance.below(3)).map(|_| chance.number(LINES_OF_A_START)).collect();
        Self { trouble, kill, changes, stillborn }
    }
}

impl Kill {
    fn planned(chance: &mut Chance, trouble: Trouble, changes: usize) -> Self {
        match (chance.below(5), trouble) {
            (0 | 1, Trouble::Hold) => Self::WhileHeld,
            (0, _) => Self::AtWords(chance.words(ACCEPTING), 1 + chance.number(2)),
            // A held write is not settled.
            (1, _) | (2, Trouble::Hold) => Self::AtWords(chance.words(CLAIMING), 1),
            (3, Trouble::Hold) | (4, _) => Self::AfterAnswers(1 + chance.number(u64::try_from(changes).unwrap())),
            _ => Self::AtWords(chance.words(SETTLING), 1),
        }
    }
}

/// A change that no other of its cycle undoes, so that there is a write to hold.
fn toggle(number: usize, present: &Assigned) -> Change {
    let quiet = CONFIGURATIONS[0];
    let there = present[quiet].contains_key(&group(5));
    change_of(number, 0, quiet, (if there { "remove" } else { "add" }, 5))
}

fn change_of(cycle: usize, change: usize, configuration: &str, (list, touched): (&str, u8)) -> Change {
    let ticket = format!("RITM{cycle}-{change}");
    Change {
        key: Key(ticket.clone()),
        body: json!({"configuration": configuration, list: [{"group": group(touched)}], "ticket": ticket}),
    }
}
