//! `audit.*`: the key that signs checkpoints, and the sinks that receive records in addition to the store.
//!
//! Guarantees: a configured sink has everything it needs, and `audit.file` is refused without the sink "file", so that
//! nobody relies on a stream that does not exist.
//!
//! It deliberately opens no file: `audit` checks the key.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use url::Url;

use super::{
    SecretRef, SecretSource, Telemetry,
    table::Table,
    value::{self, Refusal, duration},
};

/// `audit.*`
#[derive(Clone, Debug)]
pub struct Audit {
    /// The key that signs checkpoints; without it none are signed.
    pub key: Option<SecretSource>,
    /// Maximum time that new records wait for a checkpoint.
    pub checkpoint_every: Duration,
    /// Maximum number of new records that wait for a checkpoint.
    pub checkpoint_records: u64,
    /// Where records are streamed in addition to the store.
    pub sinks: Vec<Sink>,
    /// Format of the streamed records.
    pub format: AuditFormat,
    /// How many denied or refused requests of one kind are recorded individually per minute.
    pub denied_per_minute: u64,
}

/// A destination of audit records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file that is rotated when it is full.
    File(AuditFile),
    /// The telemetry collector, given by its base URL; records are sent as logs.
    Otlp(Url),
}

/// A file that audit records are appended to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Maximum size before it is rotated, in bytes.
    pub size_max: usize,
    /// How many rotated files are kept.
    pub keep: u32,
}

/// Format of streamed audit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditFormat {
    /// JSON lines, exactly as they are hashed.
    Jsonl,
    /// Open Cybersecurity Schema Framework.
    Ocsf,
    /// Elastic Common Schema.
    Ecs,
    /// Advanced Security Information Model of Microsoft Sentinel.
    Asim,
}

const KEY_FILE: &str = "audit.key_file";
const SINKS: &str = "audit.sinks";
const FILE: &str = "audit.file";

/// The formats, by name.
const FORMATS: [(&str, AuditFormat); 4] = [
    ("jsonl", AuditFormat::Jsonl),
    ("ocsf", AuditFormat::Ocsf),
    ("ecs", AuditFormat::Ecs),
    ("asim", AuditFormat::Asim),
];

impl AuditFormat {
    /// Its name in the settings.
    pub fn name(self) -> &'static str {
        FORMATS.iter().find(|row| row.1 == self).map_or("", |row| row.0)
    }
}

fn format(text: &str) -> Result<AuditFormat, Refusal> {
    let known = || FORMATS.map(|row| row.0).join(", ");
    let found = FORMATS.iter().find(|row| row.0 == text).map(|row| row.1);
    found.ok_or_else(|| {
        Refusal::new(format!("{text:?} is not a format of audit records")).hint(format!("one of {}", known()))
    })
}

/// The kinds of sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Stdout,
    File,
    Otlp,
}

fn kind(text: &str) -> Result<Kind, Refusal> {
    match text {
        "stdout" => Ok(Kind::Stdout),
        "file" => Ok(Kind::File),
        "otlp" => Ok(Kind::Otlp),
        _ => Err(Refusal::new(format!("{text:?} is not a sink")).hint("one of stdout, file, otlp")),
    }
}

/// Reads the section; also returns where the key is.
pub(super) fn read(table: &mut Table<'_>, telemetry: Option<&Telemetry>) -> (Option<Audit>, Option<SecretRef>) {
    let day = Duration::from_hours(24);
    let key = table.path(KEY_FILE, None).map(SecretSource::File);
    let key = key.map(|source| SecretRef { source, at: table.fault_at(KEY_FILE) });
    let every = table.setting("audit.checkpoint_every", "5m", duration(Duration::from_secs(1), day));
    let records = table.number("audit.checkpoint_records", 1_000, 1..=1_000_000);
    let kinds = table.list(SINKS, Some(&[]), kind);
    let format = table.setting("audit.format", "jsonl", format);
    let file = file(table, &kinds);
    let denied = table.number("audit.denied_per_minute", 60, 1..=100_000);
    let endpoint = telemetry.and_then(|telemetry| telemetry.otlp_endpoint.clone());
    if kinds.contains(&Kind::Otlp) && telemetry.is_some() && endpoint.is_none() {
        let what = "the sink \"otlp\" has no collector to send to";
        table.refuse(SINKS, what, Some("set telemetry.otlp_endpoint, or leave otlp out"));
    }
    let sink = |kind: &Kind| match kind {
        Kind::Stdout => Some(Sink::Stdout),
        Kind::File => file.clone().map(Sink::File),
        Kind::Otlp => endpoint.clone().map(Sink::Otlp),
    };
    let audit = || {
        Some(Audit {
            key: key.as_ref().map(|named| named.source.clone()),
            checkpoint_every: every?,
            checkpoint_records: u64::from(records?),
            sinks: kinds.iter().filter_map(sink).collect(),
            format: format?,
            denied_per_minute: u64::from(denied?),
        })
    };
    (audit(), key)
}

fn file(table: &mut Table<'_>, kinds: &BTreeSet<Kind>) -> Option<AuditFile> {
    let wanted = kinds.contains(&Kind::File);
    let path = table.path(FILE, None);
    let size_max = table.setting("audit.file_size_max", "64MiB", value::size);
    let keep = table.number("audit.file_keep", 10, 1..=1_000);
    if wanted && !table.given(FILE) {
        table.missing(FILE);
    }
    if !wanted && table.given(FILE) {
        table.refuse(FILE, "\"file\" is not among audit.sinks", Some("add it there, or leave this out"));
    }
    Some(AuditFile { path: path?, size_max: size_max?, keep: keep? })
}
