//! Settings that keep the place where they were written, because their faults are found only when they are used:
//! expressions and secret files.

use super::{
    SecretRef, SecretSource,
    table::{Raw, Table},
    value,
    webhooks::Expression,
};

impl Table<'_> {
    /// An optional expression.
    pub(super) fn expression(&mut self, key: &'static str) -> Option<Expression> {
        let text = self.optional(key, value::filled)?;
        Some(Expression::new(text, self.fault_at(key)))
    }

    /// An optional list of expressions, in their order.
    pub(super) fn expressions(&mut self, key: &'static str) -> Vec<Expression> {
        self.declare(key, Some("[]".to_owned()));
        let Some(cell) = self.take(key) else { return Vec::new() };
        let Raw::List(items) = cell.raw else {
            self.wrong_type(key, "a list of strings", cell.raw.noun());
            return Vec::new();
        };
        let written = |item| {
            let text = self.item(key, item, &value::filled)?;
            Some(Expression::new(text, self.fault_at(key)))
        };
        items.into_iter().filter_map(written).collect()
    }

    /// An optional secret file.
    pub(super) fn secret_file(&mut self, key: &'static str) -> Option<SecretRef> {
        let source = SecretSource::File(self.path(key, None)?);
        Some(SecretRef { source, at: self.fault_at(key) })
    }
}
