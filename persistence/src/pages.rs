//! Keyset pages of lists.

/// A page of a list: at most `limit` rows after the row that `after` identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRequest<C> {
    /// The last row of the previous page; the list starts at its beginning without it.
    pub after: Option<C>,
    /// The maximum number of rows.
    pub limit: i64,
}
