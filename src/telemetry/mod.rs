//! Logs, traces and metrics: how they are started, what they carry, and how they are flushed.
//!
//! Logs go to standard error, as JSON lines or for people. With a collector configured, traces, metrics and the same log
//! events also go there by OTLP over HTTP. Without one, spans have ids all the same, so every log line, problem and audit
//! record has a trace id.
//!
//! Guarantees: W3C trace context is taken from callers ([`set_parent`]) and passed on ([`traceparent`]); a malformed one
//! starts a new trace. If a collector is down, only telemetry is lost.
//!
//! It deliberately keeps OpenTelemetry to itself: no other module uses its types.

mod ids;
mod instruments;
mod json_log;
mod meters;
mod metrics_export;

use std::{sync::OnceLock, time::Duration};

use opentelemetry::{
    KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanContext, TraceContextExt, TracerProvider},
};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::SdkLoggerProvider,
    metrics::SdkMeterProvider,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{self, FilterExt, LevelFilter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};
use url::Url;

pub use self::{
    meters::{
        Call, Fetch, Pending, Request, count_acceptance, count_audit_break, count_broken_turn, count_callback,
        count_decision, count_delivered, count_drift, count_end, count_load, count_parking, count_problem,
        count_store_failure, count_throttling, count_token_fetch, count_until, count_webhook, known_method,
        measure_call, measure_commit, measure_operation, measure_request, measure_write, set_audit_lag,
        set_certificate_end, set_lanes, set_pending, set_store_available, set_token_end, set_undelivered,
    },
    metrics_export::exposition,
};

use self::{
    ids::Ids,
    json_log::{Fields, Lines},
};

/// The service name in traces, metrics and logs.
const SERVICE: &str = "postern";
/// How long the flush at shutdown may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Crates that the exporters use; exporting their spans and events would cause more of them.
const EXPORTERS_OWN: [&str; 6] = ["hyper", "reqwest", "h2", "rustls", "opentelemetry", "hyper_util"];

/// `telemetry.*`
#[derive(Clone, Debug)]
pub struct Settings {
    /// Root of an OTLP/HTTP collector; nothing is sent without one.
    pub otlp_endpoint: Option<Url>,
    /// The percentage of traces started here that are exported; those of callers are if the caller samples them.
    pub traces_percent: u32,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// Which events are logged, in tracing's filter syntax (`info`, `postern=debug,info`).
    pub log_filter: String,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `Pretty` on a terminal, `Json` otherwise.
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Pretty,
}

/// Whether a text is a valid log filter.
pub fn is_filter(text: &str) -> bool {
    // tracing-subscriber 0.3.23 misreads a filter that begins with white space, and panics if non-ASCII letters follow: no
    // such filter may reach it.
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    plain && EnvFilter::try_new(text).is_ok()
}

/// Why telemetry cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter has invalid syntax.
    #[error("telemetry.log_filter: {0}")]
    Filter(String),
    /// The exporter cannot be created.
    #[error("telemetry.otlp_endpoint: {0}")]
    Exporter(String),
    /// It has already been started.
    #[error("telemetry was started before: {0}")]
    Started(String),
}

/// Running telemetry; keep it until shutdown, then [`Telemetry::flush`] it.
#[derive(Debug)]
pub struct Telemetry {
    tracing: Option<SdkTracerProvider>,
    metering: SdkMeterProvider,
    logging: Option<SdkLoggerProvider>,
}

/// Replaces a filter in use.
type Refilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The filters in use: of the log, and of the log events that are exported.
static FILTERS: OnceLock<Vec<Refilter>> = OnceLock::new();

/// Starts logs, traces and metrics for this process. `instance` identifies it among those that send to one collector.
pub fn start(settings: &Settings, instance: &str) -> Result<Telemetry, Error> {
    let resource = Resource::builder()
        .with_service_name(SERVICE)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .build();
    let tracing = tracer_provider(settings, resource.clone())?;
    let metering = metrics_export::provider(settings, resource.clone())?;
    let logging = logger_provider(settings, resource)?;
    let ((filter, of_log), (filter_sent, of_sent)) =
        (reload::Layer::new(filter(&settings.log_filter)?), reload::Layer::new(filter(&settings.log_filter)?));
    let pretty = match settings.log_format {
        LogFormat::Pretty => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::IsTerminal::is_terminal(&std::io::stderr()),
    };
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs =
        if pretty { logs.with_target(false).boxed() } else { logs.fmt_fields(Fields).event_format(Lines).boxed() };
    let own = |metadata: &tracing::Metadata<'_>| !EXPORTERS_OWN.iter().any(|name| metadata.target().starts_with(name));
    let is_sent = tracing.is_some();
    // With this hint, the many places that log or trace finer steps are disabled without asking the filter.
    let finest = if is_sent { LevelFilter::TRACE } else { LevelFilter::INFO };
    let wanted = move |metadata: &tracing::Metadata<'_>| {
        own(metadata) && (is_sent || (metadata.is_span() && *metadata.level() <= finest))
    };
    let traces = match &tracing {
        // Nobody needs threads, code locations and busy times in traces, and each span would pay for them.
        Some(provider) => tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .boxed(),
        None => Ids.boxed(),
    };
    let traces = traces.with_filter(filter::filter_fn(wanted).with_max_level_hint(finest));
    let sent = logging
        .as_ref()
        .map(|provider| OpenTelemetryTracingBridge::new(provider).with_filter(filter_sent.and(filter::filter_fn(own))));
    let subscriber = tracing_subscriber::registry().with(traces).with(logs.with_filter(filter));
    // `None` as a layer counts as one that may want everything: then every disabled event would be checked each time.
    let started = match sent {
        Some(sent) => subscriber.with(sent).try_init(),
        None => subscriber.try_init(),
    };
    started.map_err(|error| Error::Started(error.to_string()))?;
    let log: Refilter = Box::new(move |filter| of_log.reload(filter));
    // If nothing is exported, that filter is already dropped.
    let sent: Refilter = Box::new(move |filter| of_sent.reload(filter));
    FILTERS.get_or_init(|| std::iter::once(log).chain(logging.is_some().then_some(sent)).collect());
    Ok(Telemetry { tracing, metering, logging })
}

/// Replaces the filter of what is logged and exported. Does nothing if telemetry was not started.
pub fn refilter(text: &str) -> Result<(), Error> {
    for refilter in FILTERS.get().into_iter().flatten() {
        refilter(filter(text)?).map_err(|error| Error::Filter(error.to_string()))?;
    }
    Ok(())
}

fn filter(text: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(text).map_err(|error| Error::Filter(error.to_string()))
}

fn tracer_provider(settings: &Settings, resource: Resource) -> Result<Option<SdkTracerProvider>, Error> {
    let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
    let sampler = Sampler::TraceIdRatioBased(f64::from(settings.traces_percent) / 100.0);
    let builder =
        SdkTracerProvider::builder().with_resource(resource).with_sampler(Sampler::ParentBased(Box::new(sampler)));
    let endpoint = format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'));
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| Error::Exporter(error.to_string()))?;
    Ok(Some(builder.with_batch_exporter(exporter).build()))
}

fn logger_provider(settings: &Settings, resource: Resource) -> Result<Option<SdkLoggerProvider>, Error> {
    let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
    let endpoint = format!("{}/v1/logs", endpoint.as_str().trim_end_matches('/'));
    let exporter = opentelemetry_otlp::LogExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| Error::Exporter(error.to_string()))?;
    Ok(Some(SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build()))
}

impl Telemetry {
    /// Sends what has not been sent yet, for a limited time even if the collector does not respond. Blocks.
    pub fn flush(self) {
        let Self { tracing, metering, logging } = self;
        // In parallel: otherwise a collector that does not respond would cost the timeout three times.
        std::thread::scope(|scope| {
            scope.spawn(|| tell("traces", tracing.map_or(Ok(()), |it| it.shutdown_with_timeout(FLUSH_TIMEOUT))));
            scope.spawn(|| tell("metrics", metering.shutdown_with_timeout(FLUSH_TIMEOUT)));
            scope.spawn(|| tell("log events", logging.map_or(Ok(()), |it| it.shutdown_with_timeout(FLUSH_TIMEOUT))));
        });
    }
}

fn tell(what: &str, flushed: OTelSdkResult) {
    if let Err(error) = flushed {
        tracing::warn!(%error, what, "some telemetry may not have been sent");
    }
}

/// The two headers of W3C trace context.
struct Headers<'a> {
    traceparent: Option<&'a str>,
    tracestate: Option<&'a str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

fn remote(traceparent: &str, tracestate: Option<&str>) -> SpanContext {
    let headers = Headers { traceparent: Some(traceparent), tracestate };
    TraceContextPropagator::new().extract(&headers).span().span_context().clone()
}

/// Puts a span that was not entered yet into its caller's trace. Without a valid `traceparent` it starts its own.
pub fn set_parent(span: &Span, traceparent: Option<&str>, tracestate: Option<&str>) {
    // Most callers send none.
    let Some(traceparent) = traceparent else { return };
    let context = TraceContextPropagator::new().extract(&Headers { traceparent: Some(traceparent), tracestate });
    let theirs = context.span().span_context().clone();
    if theirs.is_valid()
        && !ids::adopt(span, &theirs)
        && let Err(error) = span.set_parent(context)
    {
        tracing::debug!(%error, "the caller's trace cannot be continued");
    }
}

/// Records a span's trace id in its field `trace_id`, so that log lines have it.
pub fn note_trace_id(span: &Span) {
    if let Some(trace_id) = trace_id_of(span) {
        span.record("trace_id", trace_id);
    }
}

/// Links a span to the one named by a `traceparent`.
pub fn link(span: &Span, traceparent: Option<&str>) {
    // Nothing is exported, so nobody could follow the link.
    if ids::of(span).is_some() {
        return;
    }
    let linked = traceparent.map(|traceparent| remote(traceparent, None)).filter(SpanContext::is_valid);
    if let Some(linked) = linked {
        span.add_link(linked);
    }
}

/// The W3C `traceparent` of the current span.
pub fn traceparent() -> Option<String> {
    let span = context_of(&Span::current())?;
    Some(format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8()))
}

/// The trace id of the current span.
pub fn trace_id() -> Option<String> {
    trace_id_of(&Span::current())
}

/// The trace id of a span.
pub fn trace_id_of(span: &Span) -> Option<String> {
    context_of(span).map(|context| context.trace_id().to_string())
}

/// The trace id in a `traceparent` made by [`traceparent`].
pub fn trace_id_in(traceparent: &str) -> Option<String> {
    traceparent.split('-').nth(1).map(str::to_owned)
}

fn context_of(span: &Span) -> Option<SpanContext> {
    ids::of(span).or_else(|| Some(span.context().span().span_context().clone()).filter(SpanContext::is_valid))
}
