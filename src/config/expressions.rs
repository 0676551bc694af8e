//! Settings that keep where they were written, because whoever uses them finds what is wrong with them: expressions, and
//! files of secrets.

use super::{
    Named, SecretSource,
    table::{Raw, Table},
    value,
    webhooks::Written,
};

impl Table<'_> {
    /// An expression that may be left out.
    pub(super) fn expression(&mut self, key: &'static str) -> Option<Written> {
        let text = self.optional(key, value::filled)?;
        Some(Written::new(text, self.fault_at(key)))
    }

    /// A list of expressions, in their order; none if it is left out.
    pub(super) fn expressions(&mut self, key: &'static str) -> Vec<Written> {
        self.declare(key, Some("[]".to_owned()));
        let Some(cell) = self.take(key) else { return Vec::new() };
        let Raw::List(items) = cell.raw else {
            self.wrong_type(key, "a list of strings", cell.raw.noun());
            return Vec::new();
        };
        let written = |item| {
            let text = self.item(key, item, &value::filled)?;
            Some(Written::new(text, self.fault_at(key)))
        };
        items.into_iter().filter_map(written).collect()
    }

    /// The file of a secret that may be left out.
    pub(super) fn secret_file(&mut self, key: &'static str) -> Option<Named> {
        let source = SecretSource::File(self.path(key, None)?);
        Some(Named { source, at: self.fault_at(key) })
    }
}
