//! Log lines as JSON: one object per line, with the fields of its event, and those of the current span as `span`.
//!
//! tracing-subscriber's own JSON format also stores a span's fields as text, but parses and rewrites that text for each line
//! and each field recorded later; here it is copied. So a field recorded twice appears twice, and JSON parsers take the
//! last.
//!
//! It deliberately knows no single event. Called by `telemetry` only.

use std::fmt;

use serde::{Serialize, Serializer};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::Record,
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// Initial capacity in bytes.
const USUAL: usize = 512;

/// Formats the fields of a span as the members of an object, without braces.
#[derive(Debug)]
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut members = Members::after("");
        fields.record(&mut members);
        writer.write_str(&members.told()?)
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let mut members = Members::after(&current.fields);
        fields.record(&mut members);
        current.fields.push_str(&members.told()?);
        Ok(())
    }
}

/// Formats a whole line.
#[derive(Debug)]
pub(super) struct Lines;

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, Fields> for Lines {
    fn format_event(&self, ctx: &FmtContext<'_, S, Fields>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // An event from the crate `log` has its metadata in its fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        writer.write_str(r#"{"timestamp":""#)?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, r#"","level":"{}""#, metadata.level())?;
        let mut members = Members::after(r#""level""#);
        event.record(&mut members);
        members.member("target", metadata.target());
        writer.write_str(&members.told()?)?;
        let span = event.parent().and_then(|id| ctx.span(id)).or_else(|| ctx.lookup_current());
        if let Some(span) = span {
            writer.write_str(r#","span":{"#)?;
            let notes = span.extensions();
            let fields = notes.get::<FormattedFields<Fields>>().map_or("", |it| it.fields.as_str());
            writer.write_str(fields)?;
            let mut members = Members::after(fields);
            members.member("name", span.name());
            writer.write_str(&members.told()?)?;
            writer.write_char('}')?;
        }
        writer.write_str("}\n")
    }
}

/// Members of a JSON object, written one after another.
struct Members {
    text: Vec<u8>,
    separator: &'static [u8],
    written: fmt::Result,
}

impl Members {
    /// Members that follow others, or none if `others` is empty.
    fn after(others: &str) -> Self {
        let separator: &[u8] = if others.is_empty() { b"" } else { b"," };
        Self { text: Vec::with_capacity(USUAL), separator, written: Ok(()) }
    }

    fn member(&mut self, name: &str, value: impl Serialize) {
        if self.written.is_ok() {
            self.written = self.write(name, value).map_err(|_told| fmt::Error);
        }
    }

    fn write(&mut self, name: &str, value: impl Serialize) -> serde_json::Result<()> {
        self.text.extend(self.separator);
        self.separator = b",";
        // A raw identifier (`r#type`) is named without its prefix.
        serde_json::to_writer(&mut self.text, name.strip_prefix("r#").unwrap_or(name))?;
        self.text.push(b':');
        serde_json::to_writer(&mut self.text, &value)
    }

    /// The text, if everything could be written.
    fn told(self) -> Result<String, fmt::Error> {
        self.written?;
        String::from_utf8(self.text).map_err(|_json| fmt::Error)
    }
}

impl Visit for Members {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.member(field.name(), Shown(value));
    }
}

/// A value whose debug output is written as a string.
struct Shown<'a>(&'a dyn fmt::Debug);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt};

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Page {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Page {
        /// Its lines without their timestamps, which differ.
        fn lines(&self) -> Vec<Value> {
            let text = String::from_utf8(self.0.lock().expect("nobody panicked").clone()).expect("lines are text");
            assert!(text.is_empty() || text.ends_with('\n'));
            let read = |line| {
                let mut line: Value = serde_json::from_str(line).expect("a line is a JSON object");
                let time = line.as_object_mut().and_then(|line| line.remove("timestamp")).expect("a line has a time");
                time.as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).expect("it is a moment");
                line
            };
            text.lines().map(read).collect()
        }
    }

    /// The lines that `telling` logs, after checking that tracing-subscriber's own format gives the same.
    fn lines(telling: impl FnOnce()) -> Vec<Value> {
        let (ours, theirs) = (Page::default(), Page::default());
        let of_ours = tracing_subscriber::fmt::layer().fmt_fields(Fields).event_format(Lines).with_writer(ours.clone());
        let of_theirs = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_writer(theirs.clone());
        let subscriber = tracing_subscriber::registry().with(of_ours).with(of_theirs);
        tracing::subscriber::with_default(subscriber, telling);
        let lines = ours.lines();
        assert_eq!(lines, theirs.lines());
        lines
    }

    #[test]
    fn a_line_holds_its_event_and_the_span_around_it() {
        let told = lines(|| {
            tracing::warn!(count = 1, negative = -1_i64, part = 0.5, odd = f64::NAN, yes = true, "before any span");
            let span =
                tracing::info_span!("outer", operation.id = %"op_1", later = tracing::field::Empty, r#type = "t");
            let inner = tracing::info_span!(parent: &span, "inner", nothing = tracing::field::Empty);
            span.in_scope(|| tracing::info!(caller = "somebody", "within"));
            span.record("later", 7);
            span.in_scope(|| tracing::error!(error = ?Some("why"), large = u128::MAX, "within, later"));
            inner.in_scope(|| tracing::info!("within the inner"));
            inner.record("nothing", "something");
            inner.in_scope(|| tracing::info!("within the inner, later"));
            tracing::info!(parent: &span, "told of the outer");
        });
        assert_eq!(told.len(), 6);
        assert_eq!(told[2]["span"]["later"], 7);
        assert_eq!(told[4]["span"]["nothing"], "something");
    }

    #[test]
    fn no_text_breaks_out_of_its_line() {
        let hostile = ["\"}\n{\"level\":\"ERROR\"", "\u{0}\u{1b}[31m\u{7f}\u{2028}", "\\", "\u{1f600} \u{e9}"];
        let told = lines(|| {
            for text in hostile {
                let span = tracing::info_span!("span", text, shown = %text, debugged = ?text);
                span.in_scope(|| tracing::info!(text, shown = %text, debugged = ?text, "{text}"));
            }
        });
        let messages: Vec<_> = told.iter().map(|line| line["message"].as_str().expect("a text")).collect();
        assert_eq!(messages, hostile);
        assert!(told.iter().zip(hostile).all(|(line, text)| line["span"]["shown"] == text));
    }
}
