//! Versions: of several updates of one row, the newest counts.

use std::collections::BTreeMap;

/// The newest update of each row, by the row's key and version. Ascending keys: one statement
/// cannot upsert a row twice, and transactions that lock rows in the same order cannot deadlock.
pub(crate) fn newest<K: Ord, T>(
    updates: &[T],
    key_and_version: impl Fn(&T) -> (K, i64),
) -> BTreeMap<K, &T> {
    let mut newest: BTreeMap<K, &T> = BTreeMap::new();
    for update in updates {
        let (key, version) = key_and_version(update);
        let known = newest.entry(key).or_insert(update);
        if version > key_and_version(known).1 {
            *known = update;
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_newest_update_of_each_row_is_kept_whatever_the_order(
            updates in prop::collection::vec((0..5_i64, 1..9_i64), 0..40)
        ) {
            let newest: Vec<_> = newest(&updates, |update| *update).into_values().collect();
            prop_assert!(newest.is_sorted_by(|one, next| one.0 < next.0), "each row once");
            for (key, version) in &updates {
                let kept = newest.iter().find(|kept| kept.0 == *key);
                prop_assert!(kept.is_some_and(|kept| kept.1 >= *version));
            }
            prop_assert!(newest.iter().all(|kept| updates.contains(kept)));
        }
    }
}
