//! Throttling: Microsoft's published budgets, as far as a seed or a test sets them.
//!
//! Calls and writes are counted over twenty seconds, the cost of group calls over ten; refused calls count as well. Without
//! a limit nothing is refused, but the cost is still reported.
//!
//! It deliberately counts all calls as one app's; other apps of the tenant are not simulated. Called by `graph.rs`.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use super::errors::Refusal;
use super::switches::{RetryAfter, Switches};
use super::wire::{Request, Response};

const CALLS: Duration = Duration::from_secs(20);
const UNITS: Duration = Duration::from_secs(10);
/// From this share of the limit on, responses report the share used.
const TOLD_FROM: f64 = 0.8;

/// The recent calls.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    calls: Window,
    writes: Window,
    units: Window,
}

/// The times of calls within a span, oldest first.
#[derive(Debug, Default)]
struct Window(VecDeque<Timestamp>);

impl Window {
    /// Counts one more; returns how many there are within `span`, and how long until the oldest of them leaves it.
    fn count(&mut self, at: Timestamp, span: Duration) -> (usize, Duration) {
        let age = |moment: &Timestamp| at.duration_since(*moment).unsigned_abs();
        while self.0.front().is_some_and(|oldest| age(oldest) >= span) {
            self.0.pop_front();
        }
        let left = self.0.front().map_or(span, |oldest| span.saturating_sub(age(oldest)));
        self.0.push_back(at);
        (self.0.len(), left)
    }
}

impl Limits {
    /// Counts a call; refuses it if it exceeds a limit.
    pub(crate) fn admit(&mut self, call: &Request, switches: &Switches) -> Result<(), Box<Response>> {
        let mut windows = vec![(self.calls.count(call.at, CALLS), switches.calls_max)];
        if call.method != "GET" {
            windows.push((self.writes.count(call.at, CALLS), switches.writes_max));
        }
        let of_groups = call.parts().get(1).is_some_and(|part| part.eq_ignore_ascii_case("groups"));
        if of_groups {
            windows.push((self.units.count(call.at, UNITS), switches.group_units_max));
        }
        let over = windows.into_iter().filter(|((count, _), most)| most.is_some_and(|most| *count > most));
        let Some(pause) = over.map(|((_, left), _)| left).max() else { return Ok(()) };
        let refusal = Refusal::graph(429, "TooManyRequests", "An error has occurred.");
        let mut answer = refusal.answer(call, switches);
        if let Some(text) = written(pause, call.at, switches.retry_after) {
            answer = answer.with("Retry-After", text);
        }
        Err(Box::new(answer))
    }

    /// Adds to the response to a group call what it cost and, near the limit, the share used.
    pub(crate) fn told(&self, answer: Response, switches: &Switches) -> Response {
        let answer = answer.with("x-ms-resource-unit", "1".to_owned());
        let Some(most) = switches.group_units_max else { return answer };
        let used = share(self.units.0.len(), most);
        if used < TOLD_FROM { answer } else { answer.with("x-ms-throttle-limit-percentage", format!("{used:.1}")) }
    }
}

fn share(used: usize, most: usize) -> f64 {
    let number = |count: usize| u32::try_from(count).map_or(f64::MAX, f64::from);
    number(used) / number(most)
}

/// The value of `Retry-After` for a pause.
fn written(pause: Duration, now: Timestamp, form: RetryAfter) -> Option<String> {
    let begun = pause.as_secs().saturating_add(1);
    Some(match form {
        RetryAfter::Whole => begun.to_string(),
        RetryAfter::Fractional => format!("{:.3}", pause.as_secs_f64()),
        RetryAfter::Date => {
            let at = now.checked_add(Duration::from_secs(begun)).unwrap_or(now);
            at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
        }
        RetryAfter::Zero => "0".to_owned(),
        RetryAfter::Absurd => "86400000".to_owned(),
        RetryAfter::Absent => return None,
    })
}
