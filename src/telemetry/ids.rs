//! Span ids when no traces are exported: for log lines, audit records and the trace headers of outgoing calls.
//!
//! OpenTelemetry's own layer costs more: it collects all that could be exported of a span, even if nothing ever is.
//!
//! Guarantees: a span belongs to the trace of its parent span, or of the caller, and inherits whether that is sampled.
//!
//! It deliberately knows no headers. Called by `telemetry` only.

use opentelemetry::trace::SpanContext;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing::{
    Span, Subscriber,
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

/// Gives each span its ids.
#[derive(Debug)]
pub(super) struct Ids;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Ids {
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        // The explicit parent, or else the innermost entered span that this layer sees.
        let around = match attrs.parent() {
            Some(parent) => ctx.span(parent),
            None => attrs.is_contextual().then(|| ctx.lookup_current()).flatten(),
        };
        let around = around.and_then(|around| around.extensions().get::<SpanContext>().cloned());
        span.extensions_mut().insert(within(&around.unwrap_or(SpanContext::NONE)));
    }
}

/// The ids of a new span, in the trace of another or in a trace of its own.
fn within(other: &SpanContext) -> SpanContext {
    let ids = RandomIdGenerator::default();
    let trace_id = if other.is_valid() { other.trace_id() } else { ids.new_trace_id() };
    SpanContext::new(trace_id, ids.new_span_id(), other.trace_flags(), false, other.trace_state().clone())
}

/// The ids of a span, if this layer gave it any.
pub(super) fn of(span: &Span) -> Option<SpanContext> {
    at(span, |it| it.extensions().get().cloned())
}

/// Moves a span into another's trace; false if this layer gave it no ids.
pub(super) fn adopt(span: &Span, other: &SpanContext) -> bool {
    let known = |it: &SpanRef<'_, Registry>| {
        let mut notes = it.extensions_mut();
        notes.get_mut::<SpanContext>().map(|own| *own = within(other))
    };
    at(span, known).is_some()
}

fn at<T>(span: &Span, look: impl FnOnce(&SpanRef<'_, Registry>) -> Option<T>) -> Option<T> {
    let found = |(id, subscribers): (&Id, &tracing::Dispatch)| {
        let registry = subscribers.downcast_ref::<Registry>()?;
        look(&registry.span(id)?)
    };
    span.with_subscriber(found).flatten()
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};
    use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt};

    use super::*;

    fn in_traces(telling: impl FnOnce()) {
        // Another layer, which also takes finer spans.
        let all = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
        let subscriber = tracing_subscriber::registry().with(Ids.boxed().with_filter(LevelFilter::INFO)).with(all);
        tracing::subscriber::with_default(subscriber, telling);
    }

    #[test]
    fn a_span_is_a_part_of_the_trace_around_it() {
        in_traces(|| {
            let outer = tracing::info_span!("outer");
            let own = of(&outer).expect("ids");
            assert!(own.is_valid() && !own.is_sampled() && !own.is_remote());
            let fine = tracing::debug_span!("not wanted");
            assert!(!fine.is_disabled() && of(&fine).is_none());
            let nested = outer.in_scope(|| fine.in_scope(|| tracing::info_span!("nested")));
            for inner in [nested, tracing::info_span!(parent: &outer, "named")] {
                let inner = of(&inner).expect("ids");
                assert_eq!(inner.trace_id(), own.trace_id());
                assert_ne!(inner.span_id(), own.span_id());
            }
            let others = [tracing::info_span!("another"), outer.in_scope(|| tracing::info_span!(parent: None, "root"))];
            for other in others {
                assert_ne!(of(&other).expect("ids").trace_id(), own.trace_id());
            }
        });
    }

    #[test]
    fn a_span_goes_over_to_the_trace_of_its_caller_with_all_within_it() {
        let theirs = SpanContext::new(
            TraceId::from(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
            SpanId::from(0x00f0_67aa_0ba9_02b7),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        in_traces(|| {
            let span = tracing::info_span!("request");
            assert!(adopt(&span, &theirs));
            let inner = tracing::info_span!(parent: &span, "inner");
            for span in [span, inner] {
                let own = of(&span).expect("ids");
                assert!(own.trace_id() == theirs.trace_id() && own.span_id() != theirs.span_id());
                assert!(own.is_sampled() && !own.is_remote());
            }
        });
    }

    #[test]
    fn without_the_layer_there_are_no_ids() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let span = tracing::info_span!("span");
            assert!(of(&span).is_none() && !adopt(&span, &SpanContext::NONE));
        });
        assert!(of(&Span::none()).is_none());
    }
}
