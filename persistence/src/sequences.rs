//! Sequences of ids.

use sqlx::PgConnection;

use crate::Result;

/// A short distance is skipped id by id, because other transactions take ids at the same time; no
/// transactions take a hundred thousand of them meanwhile. An id that no shop can reach is ignored:
/// it is not a real one.
const SKIP: &str = "
    select case
        when $2 - last > 1000000000000 then last
        when $2 - last > 100000 then setval($1::regclass, $2)
        else (select max(nextval($1::regclass)) from generate_series(last + 1, $2))
    end
    from (select coalesce(pg_sequence_last_value($1::regclass), 0) as last) as now";

/// Advances a sequence so that it never returns this id or a smaller one.
pub(crate) async fn skip(tx: &mut PgConnection, sequence: &str, id: i64) -> Result<()> {
    sqlx::query(SKIP).bind(sequence).bind(id).execute(tx).await?;
    Ok(())
}
