//! What is counted: the catalogue of instruments, by name, unit and attributes.
//!
//! Counts go to a collector by OTLP over HTTP when one is configured; without one, counting costs nothing.
//!
//! It deliberately counts no single configuration, operation or caller: attributes have few values, so that the number of
//! series stays small. Which one it was, logs, traces and the audit trail tell.

use std::sync::LazyLock;

use jiff::Timestamp;
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge},
};
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};

use super::{Error, SERVICE, Settings};

struct Meters {
    drift_seen: Counter<u64>,
    operations_ended: Counter<u64>,
    lanes_parked: Counter<u64>,
    turns_broken: Counter<u64>,
    certificate_end: Gauge<u64>,
}

static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let meter = global::meter(SERVICE);
    let counter = |name: &'static str, unit: &'static str, description: &'static str| {
        meter.u64_counter(name).with_unit(unit).with_description(description).build()
    };
    Meters {
        drift_seen: counter(
            "postern.assignments.drift",
            "{drift}",
            "Assignment sets found that were not as they had been left.",
        ),
        operations_ended: counter("postern.operations.ended", "{operation}", "Operations that have ended."),
        lanes_parked: counter(
            "postern.lanes.parked",
            "{parking}",
            "Lanes left for a while because they could not go on.",
        ),
        turns_broken: counter(
            "postern.lanes.broken",
            "{turn}",
            "Turns of lanes that broke off: store trouble or a panic.",
        ),
        certificate_end: meter
            .u64_gauge("postern.graph.certificate.end")
            .with_unit("s")
            .with_description("When the certificate ends by which the gateway proves itself, in seconds since 1970.")
            .build(),
    }
});

/// Somebody else changed a set since it was left.
pub fn count_drift() {
    METERS.drift_seen.add(1, &[]);
}

/// An operation has ended: in this state, and if it failed, for this reason.
pub fn count_end(state: &'static str, failure: Option<&'static str>) {
    let mut attributes = vec![KeyValue::new("postern.operation.state", state)];
    // The name that semantic conventions have for the class of an error.
    attributes.extend(failure.map(|code| KeyValue::new("error.type", code)));
    METERS.operations_ended.add(1, &attributes);
}

/// A lane was parked.
pub fn count_parking() {
    METERS.lanes_parked.add(1, &[]);
}

/// A lane's turn broke off.
pub fn count_broken_turn() {
    METERS.turns_broken.add(1, &[]);
}

/// The gateway's certificate ends at this moment.
pub fn note_certificate_end(moment: Timestamp) {
    METERS.certificate_end.record(u64::try_from(moment.as_second()).unwrap_or(0), &[]);
}

/// Where counts go. From here on they are counted, so it comes first.
pub(super) fn provider(settings: &Settings, resource: Resource) -> Result<SdkMeterProvider, Error> {
    let builder = SdkMeterProvider::builder().with_resource(resource);
    let provider = match &settings.otlp_endpoint {
        None => builder.build(),
        Some(endpoint) => {
            let endpoint = format!("{}/v1/metrics", endpoint.as_str().trim_end_matches('/'));
            let exporter = opentelemetry_otlp::MetricExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(endpoint)
                .build()
                .map_err(|error| Error::Exporter(error.to_string()))?;
            builder.with_periodic_exporter(exporter).build()
        }
    };
    global::set_meter_provider(provider.clone());
    Ok(provider)
}
