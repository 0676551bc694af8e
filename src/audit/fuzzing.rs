//! What must hold for any file that claims to be an exported trail.

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::Value;

use super::{Actor, Entry, Event, ExportFormat, Head, IndexFields, RecordId, Verifier};

/// A trail of three runs, one after another.
static TRAIL: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut records = Vec::new();
    let mut ends = Vec::new();
    for run in 0..3 {
        let (mut head, opening) = Head::open(format!("run-{run}"), &ends, "1");
        records.push(head.append(&entry(opening)).text);
        records.extend((0..2).map(|number| head.append(&entry(denied(number))).text));
        ends = vec![head];
    }
    records
});

fn entry(event: Event) -> Entry {
    Entry { at: Timestamp::UNIX_EPOCH, trace_id: None, event }
}

fn denied(number: u64) -> Event {
    Event::Denied {
        actor: Some(Actor {
            caller: Some("portal".to_owned()),
            issuer: "i".to_owned(),
            subject: "s".to_owned(),
            token_id: None,
        }),
        action: "add".to_owned(),
        configuration: None,
        change: None,
        ticket: Some(format!("RITM{number} \"quoted\" \u{e9}")),
        reason: "no policy permits it".to_owned(),
        repeated: None,
    }
}

/// As a file, the input makes nothing panic, and every format keeps the whole record. As a list of edits, it is applied to
/// an intact trail: the result verifies if at most the end was cut off, and not otherwise.
pub(crate) fn trails(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut verifier = Verifier::default();
    for line in text.lines() {
        exported(line);
        drop(verifier.expect(line));
        drop(verifier.feed(line));
    }
    let edited = edited(input);
    let untouched = edited.iter().zip(TRAIL.iter()).all(|(now, before)| now == before);
    let kept = untouched && edited.len() <= TRAIL.len();
    assert_eq!(is_whole(&edited), kept, "{edited:?}");
}

fn is_whole(records: &[String]) -> bool {
    let mut verifier = Verifier::default();
    records.iter().all(|record| verifier.feed(record).is_ok()) && verifier.finish().is_ok()
}

fn exported(line: &str) {
    if let Some(place) = RecordId::of(line) {
        assert_eq!(place.to_string().parse().as_ref(), Ok(&place));
    }
    drop(IndexFields::read(line));
    let record: Value = serde_json::from_str(line).unwrap_or_default();
    for form in [ExportFormat::Jsonl, ExportFormat::Ocsf, ExportFormat::Ecs, ExportFormat::Asim] {
        let written = form.line(line);
        if record.is_object() && form != ExportFormat::Jsonl {
            let written: Value = serde_json::from_str(&written).unwrap_or_default();
            let fields = written.as_object().into_iter().flatten();
            assert!(fields.into_iter().any(|(_, field)| *field == record), "{form} lost something of {line}");
        } else {
            assert_eq!(written, line);
        }
    }
}

/// The trail after edits of four bytes each: which edit, which record, where in it, and the new byte.
fn edited(edits: &[u8]) -> Vec<String> {
    let mut records: Vec<Vec<u8>> = TRAIL.iter().map(|text| text.clone().into_bytes()).collect();
    let (edits, _) = edits.as_chunks::<4>();
    for [edit, record, place, new] in edits.iter().take(16) {
        let at = usize::from(*record).checked_rem(records.len()).unwrap_or_default();
        let Some(bytes) = records.get_mut(at) else { break };
        // Records are longer than 256 bytes.
        let place = usize::from(*place).saturating_mul(3);
        match edit % 6 {
            0 => bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte = *new),
            1 => bytes.insert(place.min(bytes.len()), *new),
            2 => bytes.truncate(place),
            3 => drop(records.remove(at)),
            4 => {
                let copy = bytes.clone();
                records.insert(place.min(records.len()), copy);
            }
            _ => records.swap(at, usize::from(*new).checked_rem(TRAIL.len()).unwrap_or_default().min(at)),
        }
    }
    records.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}
