//! Finds the known key that an unknown one was probably meant to be.
//!
//! Guarantees: a suggestion is close enough for a typing error, or is the same key in the wrong section; otherwise
//! there is none. It deliberately compares only the spelling and knows no synonyms.

/// The known name that was most likely meant by `written`.
pub(super) fn nearest<'k>(written: &str, known: impl Iterator<Item = &'k str> + Clone) -> Option<&'k str> {
    let close = known
        .clone()
        .map(|name| (distance(written, name), name))
        .filter(|(distance, name)| *distance <= name.chars().count().div_ceil(4).min(4))
        .min();
    close.map(|(_, name)| name).or_else(|| {
        let mut moved = known.filter(|name| leaf(name) == leaf(written));
        moved.next().filter(|_| moved.next().is_none())
    })
}

fn leaf(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// The edit distance: letters to insert, delete, replace or swap with their neighbour to turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (row, letter) in a.chars().enumerate() {
        let mut next = vec![row.saturating_add(1)];
        for (column, other) in b.iter().enumerate() {
            let right = column.saturating_add(1);
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX);
            let changed = at(&last, column).saturating_add(usize::from(letter != *other));
            let dropped = at(&last, right).saturating_add(1);
            let added = at(&next, column).saturating_add(1);
            let mut best = changed.min(dropped).min(added);
            let left = column.checked_sub(1);
            if left.and_then(|left| b.get(left)) == Some(&letter) && previous == Some(*other) {
                best = best.min(at(&before_last, left.unwrap_or(0)).saturating_add(1));
            }
            next.push(best);
        }
        before_last = std::mem::replace(&mut last, next);
        previous = Some(letter);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_the_nearest_key() {
        let known = ["graph.client_id", "graph.cloud", "server.listen", "server.admin_listen"];
        for (written, meant) in [
            ("graph.clent_id", Some("graph.client_id")),
            ("graph.lcoud", Some("graph.cloud")),
            ("server.litsen", Some("server.listen")),
            ("listen", Some("server.listen")),
            ("graph.listen", Some("server.listen")),
            ("colour", None),
        ] {
            assert_eq!(nearest(written, known.iter().copied()), meant, "{written}");
        }
    }

    #[test]
    fn swapping_neighbours_is_one_step() {
        assert_eq!(distance("abcd", "abdc"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
