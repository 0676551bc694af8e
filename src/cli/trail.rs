//! `postern audit`: verifies and exports the trail, prints the public key that verifies its checkpoints.
//!
//! A record's place is written `CHAIN/SEQUENCE`, as in every export format, so an export that was interrupted can be
//! continued after the last complete line that it wrote.
//!
//! It deliberately uses only the settings of the store and of the key: whoever audits needs no credential, and faults elsewhere say
//! nothing about the trail.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{Settings, print};
use crate::{
    app,
    audit::{ExportFormat, IndexFields, PublicKey, RecordId, VerificationFailure, Verifier},
    checkpoints,
    config::{self, LoadReport},
    store,
};

/// Audit records read at a time.
const PAGE: usize = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Check every hash and, with public keys, every checkpoint; names the first bad record.
    Verify {
        #[command(flatten)]
        trail: Trail,
        /// A public key of checkpoints, in PEM; repeat the option for every key that ever signed.
        #[arg(long, value_name = "FILE")]
        public_key: Vec<PathBuf>,
        /// Checkpoints kept elsewhere, as exported: the records that they name must still be in the trail.
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        /// A break that was examined, by the place of the last record that the run had written; repeat for each.
        #[arg(long, value_name = "PLACE")]
        known_break: Vec<RecordId>,
    },
    /// Print the records, oldest first; standard error names the place to continue from.
    Export {
        #[command(flatten)]
        trail: Trail,
        /// The format of the records: jsonl, ocsf, ecs or asim.
        #[arg(long, value_name = "FORMAT", default_value_t = ExportFormat::Jsonl)]
        format: ExportFormat,
        #[command(flatten)]
        range: Range,
    },
    /// Print the public half of the key that signs checkpoints.
    Key(Settings),
}

/// Where a trail is: in the store that the settings name, in a SQLite file, or in an exported file.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub(super) struct Trail {
    /// Read the store of this configuration file [environment: `POSTERN_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read this SQLite file, even while a gateway uses it.
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// Read this exported file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Which part of a trail.
#[derive(Args, Debug)]
pub(super) struct Range {
    /// From this time or place, inclusive.
    #[arg(long, value_name = "TIME|PLACE", conflicts_with = "after")]
    from: Option<Limit>,
    /// Up to this time, exclusive, or up to this place, inclusive.
    #[arg(long, value_name = "TIME|PLACE")]
    to: Option<Limit>,
    /// Start after this place, where an earlier export ended.
    #[arg(long, value_name = "PLACE")]
    after: Option<RecordId>,
}

/// One end of a range.
#[derive(Clone, Debug)]
enum Limit {
    Time(Timestamp),
    Place(RecordId),
}

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A time zone in brackets could contradict the offset.
        if !text.contains('[')
            && let Ok(time) = text.parse()
        {
            return Ok(Self::Time(time));
        }
        text.parse().map(Self::Place).map_err(|why| format!("it must be a time like 2026-03-01T08:00:00Z, or {why}"))
    }
}

pub(super) async fn run(asked: Audit) -> anyhow::Result<ExitCode> {
    match asked {
        Audit::Verify { trail, public_key, checkpoint, known_break } => {
            let mut verifier = verifier(&public_key, &checkpoint)?;
            for id in known_break {
                verifier.expect_break(id);
            }
            verify(&trail, verifier).await
        }
        Audit::Export { trail, format, range } => export(&trail, format, range).await,
        Audit::Key(settings) => key(&settings),
    }
}

/// A verifier with the keys and the checkpoints in these files.
fn verifier(keys: &[PathBuf], checkpoints: &[PathBuf]) -> anyhow::Result<Verifier> {
    let keys = keys.iter().map(|path| public_key(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut verifier = Verifier::with_keys(keys);
    for path in checkpoints {
        expect(&mut verifier, path)?;
    }
    Ok(verifier)
}

async fn verify(trail: &Trail, mut verifier: Verifier) -> anyhow::Result<ExitCode> {
    let mut broken = None;
    each_record(trail, None, |record| {
        broken = verifier.feed(record).err();
        Ok(broken.is_none())
    })
    .await?;
    if let Some(broken) = broken {
        writeln!(io::stderr(), "the audit trail is broken: {broken}")?;
        return Ok(ExitCode::FAILURE);
    }
    match verifier.finish() {
        Ok(report) if report.records == 0 => Err(anyhow!("there are no records to verify")),
        Ok(report) => {
            print(&report.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            let verdict = match failure {
                VerificationFailure::Unsigned => "not vouched for",
                VerificationFailure::NoSuchBreak(_) => "not the one expected",
                VerificationFailure::Truncated(_) | VerificationFailure::BrokenChains { .. } => "broken",
            };
            writeln!(io::stderr(), "the audit trail is {verdict}: {failure}")?;
            if let VerificationFailure::BrokenChains { breaks, .. } = failure {
                let known: Vec<_> = breaks.iter().map(|it| format!("--known-break {}", it.id())).collect();
                writeln!(io::stderr(), "once this is examined and on record, add {}", known.join(" "))?;
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn public_key(path: &Path) -> anyhow::Result<PublicKey> {
    PublicKey::from_pem(&read(path)?).with_context(|| format!("{} holds no public key", path.display()))
}

/// Makes the verifier look for the records that the checkpoints in a file name.
fn expect(verifier: &mut Verifier, path: &Path) -> anyhow::Result<()> {
    let mut found = false;
    for (line, record) in read(path)?.lines().enumerate().filter(|(_, record)| !record.trim().is_empty()) {
        let place = || format!("{}, line {}", path.display(), line.saturating_add(1));
        found |= verifier.expect(record).map_err(|why| anyhow!("{}: {why}", place()))?;
    }
    if found { Ok(()) } else { Err(anyhow!("there is no checkpoint in {}", path.display())) }
}

fn key(settings: &Settings) -> anyhow::Result<ExitCode> {
    let LoadReport { references, faults, .. } = config::examine_process(settings.config.as_deref());
    let audit = references.audit.ok_or_else(|| anyhow!(app::listed(&faults)))?;
    let signer = checkpoints::signer(&audit).map_err(|why| anyhow!("audit.key_file: {why}"))?;
    let signer = signer.with_context(|| {
        let listed = if faults.is_empty() { String::new() } else { format!("{}\n", app::listed(&faults)) };
        format!("{listed}audit.key_file is not set, so no checkpoints are signed")
    })?;
    print(&signer.public().to_string())?;
    writeln!(io::stderr(), "key id: {}", signer.public().id())?;
    Ok(ExitCode::SUCCESS)
}

async fn export(trail: &Trail, format: ExportFormat, range: Range) -> anyhow::Result<ExitCode> {
    let (mut output, mut last) = (io::BufWriter::new(io::stdout().lock()), range.after.clone());
    // Records are not exactly in the order of their times.
    let (mut left_out, mut found) = (false, false);
    let (earliest, start) = match (range.after, range.from) {
        (Some(after), _) => (None, Some(Start::After(after))),
        (None, Some(Limit::Place(from))) => (None, Some(Start::At(from))),
        (None, Some(Limit::Time(from))) => (Some(from), None),
        (None, None) => (None, None),
    };
    each_record(trail, start, |record| {
        let place = RecordId::of(record);
        // A record that cannot be read is exported nevertheless: whoever verifies the export must see it.
        let at = IndexFields::read(record).map(|fields| fields.at);
        if at.is_some_and(|at| earliest.is_some_and(|from| at < from)) {
            return Ok(true);
        }
        let (beyond, is_last) = match &range.to {
            Some(Limit::Time(to)) => (at.is_some_and(|at| at >= *to), false),
            Some(Limit::Place(to)) => (false, place.as_ref() == Some(to)),
            None => (false, false),
        };
        left_out |= beyond;
        if !beyond {
            found = true;
            writeln!(output, "{}", format.line(record))?;
        }
        // Continuing before the first record that was left out finds it again, and repeats some that were exported.
        if !left_out {
            last = place.or(last.take());
        }
        Ok(!is_last)
    })
    .await?;
    output.flush()?;
    if !found {
        writeln!(io::stderr(), "no record is in this range")?;
    }
    if let Some(last) = last {
        writeln!(io::stderr(), "to go on from here: --after {last}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where to begin.
enum Start {
    At(RecordId),
    After(RecordId),
}

/// Passes every record to `take`, oldest first, until that returns false.
async fn each_record(
    trail: &Trail,
    start: Option<Start>,
    mut take: impl FnMut(&str) -> io::Result<bool>,
) -> anyhow::Result<()> {
    if let Some(file) = &trail.file {
        return each_line(file, start, take);
    }
    let (store, faults) = if let Some(path) = &trail.store {
        (config::Store::Sqlite(path.clone()), Vec::new())
    } else {
        let LoadReport { store, faults, .. } = config::examine_process(trail.config.as_deref());
        (store.ok_or_else(|| anyhow!(app::listed(&faults)))?, faults)
    };
    let unreadable = || format!("cannot read the trail in {}", place(&store));
    if !faults.is_empty() {
        let place = place(&store);
        writeln!(io::stderr(), "{}\nthe store is read nevertheless: {place}", app::listed(&faults))?;
    }
    let mut stored = store::Trail::open(&store).await?;
    let start = match start {
        None => None,
        Some(Start::After(place)) => Some((place, 0)),
        Some(Start::At(place)) => Some((place, 1)),
    };
    let mut after = None;
    if let Some((place, before)) = start {
        let position = stored.position(&place).await.with_context(unreadable)?;
        after = Some(position.with_context(|| no_record(&place))?.saturating_sub(before));
    }
    loop {
        let page = stored.page(after, PAGE).await.with_context(unreadable)?;
        for record in &page.records {
            if !take(record)? {
                return Ok(());
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn place(store: &config::Store) -> String {
    match store {
        config::Store::Sqlite(path) => path.display().to_string(),
        config::Store::Postgres(settings) => settings.url.to_string(),
    }
}

fn no_record(place: &RecordId) -> String {
    format!("there is no record {place} in this trail")
}

/// The same for an exported file.
fn each_line(
    file: &Path,
    mut start: Option<Start>,
    mut take: impl FnMut(&str) -> io::Result<bool>,
) -> anyhow::Result<()> {
    let text = fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    for line in io::BufRead::split(io::BufReader::new(text), b'\n') {
        let line = line?;
        // A line that is not UTF-8 is not a record; the verifier reports which one.
        let record = String::from_utf8_lossy(&line);
        let record = record.trim_end_matches('\r');
        match &start {
            Some(Start::At(place) | Start::After(place)) if RecordId::of(record).as_ref() != Some(place) => continue,
            Some(Start::After(_)) => {
                start = None;
                continue;
            }
            Some(Start::At(_)) => start = None,
            None => {}
        }
        if !take(record)? {
            return Ok(());
        }
    }
    match start {
        Some(Start::At(place) | Start::After(place)) => Err(anyhow!(no_record(&place))),
        None => Ok(()),
    }
}
