//! Properties that must hold for any text used as the configuration file.

use super::{Config, Fault, file, source_file::SourceFile};

/// Any text either yields settings or at least one fault, each at a line that exists; the same again on a second read.
pub(crate) fn settings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match read(text) {
        Ok(_) => assert!(read(text).is_ok()),
        Err(faults) => {
            assert!(!faults.is_empty(), "no settings, and no fault");
            let lines = text.split('\n').count();
            assert!(faults.iter().all(|fault| fault.line.is_none_or(|line| (1..=lines).contains(&line))));
            assert_eq!(read(text).err(), Some(faults));
        }
    }
}

/// Reads a text as settings, with an empty environment.
pub(crate) fn read(text: &str) -> Result<Config, Vec<Fault>> {
    let (examined, diagnostics) = file::interpret(&SourceFile::new(None, text), text, std::iter::empty());
    examined.config.filter(|_| diagnostics.faults.is_empty()).ok_or(diagnostics.faults)
}
