//! Where the settings were written: the file and its lines.

use std::path::{Path, PathBuf};

/// The file: its path, its folder, and the offsets at which its lines begin.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub(super) path: Option<PathBuf>,
    pub(super) shown: String,
    pub(super) folder: PathBuf,
    starts: Vec<usize>,
}

impl SourceFile {
    pub(super) fn new(path: Option<&Path>, text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            path: path.map(Path::to_path_buf),
            shown: path.map_or_else(|| "environment".to_owned(), |path| path.display().to_string()),
            folder: path.and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default(),
            starts: std::iter::once(0).chain(breaks.map(|(offset, _)| offset.saturating_add(1))).collect(),
        }
    }

    /// The line, counted from one, that contains the byte at `offset`.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }
}
