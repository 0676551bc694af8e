//! The sinks: how a batch of records gets to each of them.
//!
//! Guarantees: when sending returns, the sink has the batch: a file is synced to disk, a collector has confirmed it,
//! standard output has been flushed. A file holds whole lines only, whatever was interrupted before. Nothing here blocks
//! the runtime, not even a reader of standard output that has stopped reading.
//!
//! It deliberately retries nothing: [`super::Delivery`] does.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    audit::{ExportFormat, IndexFields, formats::deserves_attention},
    config::{AuditFile, Sink},
    outbound::{Method, Outbound, Request},
    store::StoredRecord,
};

/// How long a sink may take for a batch; much less than a turn lasts. A file or standard output cannot be held to it.
pub(super) const SEND_MAX: Duration = Duration::from_secs(20);
/// How many bytes of a collector's answer are read.
const RESPONSE_MAX: usize = 64 * 1024;
/// A body size in bytes that every collector should accept. If one does not, records wait until its setup is fixed.
const BODY_SMALL: usize = 64 * 1024;
/// The program that collects the file may be in the gateway's group; nobody else may read it.
const FILE_MODE: u32 = 0o640;

/// Where records go.
#[derive(Clone, Debug)]
pub enum SinkWriter {
    /// Standard output.
    Stdout,
    /// A file.
    File(AuditFile),
    /// A collector: its URL for logs, and the client.
    Otlp(String, Box<Outbound>),
}

impl SinkWriter {
    /// What writes to a sink of the settings.
    pub fn new(sink: &Sink, outbound: &Outbound) -> Self {
        match sink {
            Sink::Stdout => Self::Stdout,
            Sink::File(file) => Self::File(file.clone()),
            Sink::Otlp(root) => {
                Self::Otlp(format!("{}/v1/logs", root.as_str().trim_end_matches('/')), Box::new(outbound.clone()))
            }
        }
    }

    /// The name by which the store knows it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File(_) => "file",
            Self::Otlp(..) => "otlp",
        }
    }

    /// Sends a batch, or the beginning of it if the sink does not accept all at once, and returns how many records that
    /// were. After an error, nothing is known to have been sent.
    pub(super) async fn send(&self, batch: &[StoredRecord], form: ExportFormat) -> Result<usize, String> {
        let lines = || batch.iter().map(|record| form.line(&record.text) + "\n").collect::<String>();
        match self {
            Self::Stdout => run_detached(lines(), |lines| print(&lines)).await.map_err(|error| error.to_string())?,
            Self::File(file) => {
                let shown = file.path.display().to_string();
                let file = file.clone();
                let written = run_detached(lines(), move |lines| append(&file, &lines)).await;
                written.map_err(|error| format!("{shown}: {error}"))?;
            }
            Self::Otlp(url, outbound) => return post_beginning(url, outbound, batch, form).await,
        }
        Ok(batch.len())
    }
}

/// Does something that may block for long, on a thread that the program does not wait for at its end.
async fn run_detached(lines: String, work: impl FnOnce(String) -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let (done, outcome) = oneshot::channel();
    let work = move || {
        // If nobody is waiting any more, the batch is sent again.
        drop(done.send(work(lines)));
    };
    std::thread::Builder::new().name("audit sink".to_owned()).spawn(work)?;
    outcome.await.map_err(|_gone| io::Error::other("the thread that wrote has ended"))?
}

fn print(lines: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(lines.as_bytes())?;
    output.flush()
}

/// Appends to the file, or to a new one if this one is full.
fn append(settings: &AuditFile, lines: &str) -> io::Result<()> {
    let mut file = open(&settings.path)?;
    truncate_partial_line(&mut file)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if size > 0 && size.saturating_add(lines.len()) > settings.size_max {
        drop(file);
        rotate(settings)?;
        file = open(&settings.path)?;
    }
    file.seek(SeekFrom::End(0))?;
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}

fn open(path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = !path.exists();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    if new {
        // Without this, a power failure could lose the file's name, and its content with it.
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

/// Removes the part of a line that an interrupted write left behind; the line is written again.
fn truncate_partial_line(file: &mut File) -> io::Result<()> {
    let size = file.metadata()?.len();
    let Some(last) = size.checked_sub(1) else { return Ok(()) };
    let mut byte = [0_u8];
    file.seek(SeekFrom::Start(last))?;
    file.read_exact(&mut byte)?;
    if byte == *b"\n" {
        return Ok(());
    }
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place.saturating_add(1));
    file.set_len(u64::try_from(whole).unwrap_or(0))
}

/// Makes room for a new file: the full one becomes the newest of those that are kept, the oldest is dropped.
fn rotate(settings: &AuditFile) -> io::Result<()> {
    for number in (1..settings.keep).rev() {
        let kept = numbered(&settings.path, number);
        if kept.exists() {
            fs::rename(kept, numbered(&settings.path, number.saturating_add(1)))?;
        }
    }
    fs::rename(&settings.path, numbered(&settings.path, 1))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Sends a batch, or as much of it as the collector accepts in one body.
async fn post_beginning(
    url: &str,
    outbound: &Outbound,
    batch: &[StoredRecord],
    form: ExportFormat,
) -> Result<usize, String> {
    let mut part = batch;
    loop {
        let logs = logs(part, form).to_string();
        let size = logs.len();
        match (post(url, outbound, logs).await?, part) {
            (Posted::Taken, _) => return Ok(part.len()),
            (Posted::TooLarge, [alone]) if size > BODY_SMALL => {
                // It would be too large again, and hold up all records after it.
                tracing::error!(
                    audit.position = alone.position,
                    size,
                    "the collector does not accept an audit record of this size"
                );
                return Ok(1);
            }
            (Posted::TooLarge, [] | [_]) => return Err(format!("the collector takes no body of {size} bytes")),
            (Posted::TooLarge, _) => part = part.split_at(part.len().div_ceil(2)).0,
        }
    }
}

/// What a collector did with a body.
enum Posted {
    Taken,
    TooLarge,
}

async fn post(url: &str, outbound: &Outbound, logs: String) -> Result<Posted, String> {
    let call = Request {
        method: Method::POST,
        url: url.to_owned(),
        headers: Vec::new(),
        body: Some(("application/json", logs.into_bytes())),
        timeout: SEND_MAX,
        end_by: None,
        response_max: RESPONSE_MAX,
    };
    let answer = outbound.send(call).await.map_err(|error| error.to_string())?;
    if answer.status.as_u16() == 413 {
        return Ok(Posted::TooLarge);
    }
    if !answer.status.is_success() {
        return Err(format!("the collector answers {}", answer.status.as_u16()));
    }
    let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let rejected = told.pointer("/partialSuccess/rejectedLogRecords").unwrap_or(&Value::Null);
    // The protocol forbids sending these again: they would be rejected again.
    if rejected.as_str().is_some_and(|count| count != "0") || rejected.as_u64().is_some_and(|count| count > 0) {
        tracing::error!(%rejected, "the collector rejected audit records because of their content");
    }
    Ok(Posted::Taken)
}

/// The batch as logs in OTLP's JSON.
fn logs(batch: &[StoredRecord], form: ExportFormat) -> Value {
    let resource = json!([
        {"key": "service.name", "value": {"stringValue": "postern"}},
        {"key": "service.version", "value": {"stringValue": env!("CARGO_PKG_VERSION")}},
    ]);
    let records: Vec<_> = batch.iter().map(|record| log(&record.text, form)).collect();
    json!({"resourceLogs": [{
        "resource": {"attributes": resource},
        "scopeLogs": [{"scope": {"name": "postern.audit"}, "logRecords": records}],
    }]})
}

fn log(text: &str, form: ExportFormat) -> Value {
    let record: Value = serde_json::from_str(text).unwrap_or_default();
    let nanos = IndexFields::read(text).map_or(0, |fields| fields.at.as_nanosecond());
    let text_of = |key: &str| record.get(key).and_then(Value::as_str);
    let event = text_of("event").unwrap_or("unknown");
    // OpenTelemetry's severities: information, warning.
    let (number, severity) = if deserves_attention(text) { (13, "WARN") } else { (9, "INFO") };
    let mut log = json!({
        "timeUnixNano": nanos.to_string(),
        "severityNumber": number,
        "severityText": severity,
        "eventName": format!("postern.audit.{event}"),
        "body": {"stringValue": form.line(text)},
    });
    if let (Some(log), Some(trace_id)) = (log.as_object_mut(), text_of("trace_id")) {
        log.insert("traceId".to_owned(), trace_id.into());
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &tempfile::TempDir) -> AuditFile {
        AuditFile { path: folder.path().join("new/audit.jsonl"), size_max: 10, keep: 2 }
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        let held =
            |number| fs::read_to_string(if number == 0 { file.path.clone() } else { numbered(&file.path, number) });
        for lines in ["one\n", "two\n", "a line that is longer than a file\n", "four\n", "five\n", "six\n"] {
            append(&file, lines).unwrap();
        }
        assert_eq!(held(0).unwrap(), "six\n");
        assert_eq!(held(1).unwrap(), "four\nfive\n");
        assert_eq!(held(2).unwrap(), "a line that is longer than a file\n");
        assert!(held(3).is_err());
    }

    #[test]
    fn what_deserves_attention_is_a_warning_to_collectors() {
        let severity = |record: Value| log(&record.to_string(), ExportFormat::Jsonl)["severityText"].clone();
        for notable in [
            json!({"event": "denied"}),
            json!({"event": "rejected"}),
            json!({"event": "drift-seen"}),
            json!({"event": "settled", "state": "failed"}),
            json!({"event": "callback-parked"}),
            json!({"event": "started-up", "expected_end": {}}),
        ] {
            assert_eq!(severity(notable.clone()), "WARN", "{notable}");
        }
        for usual in [json!({"event": "settled", "state": "succeeded"}), json!({"event": "started-up"})] {
            assert_eq!(severity(usual.clone()), "INFO", "{usual}");
        }
    }

    #[test]
    fn a_line_that_broke_off_is_taken_away_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let file = AuditFile { size_max: 1_000, ..file(&folder) };
        append(&file, "one\n").unwrap();
        for torn in ["one\ntw", "one\n"] {
            fs::write(&file.path, torn).unwrap();
            append(&file, "two\n").unwrap();
            assert_eq!(fs::read_to_string(&file.path).unwrap(), "one\ntwo\n");
        }
        fs::write(&file.path, "nothing but a piece").unwrap();
        append(&file, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "two\n");
    }
}
