//! Sequences: the numbers that are given out once.

use sqlx::PgConnection;

use crate::Result;

/// Near numbers are passed over one by one, because others are given out meanwhile; that nobody does by the hundred
/// thousand. What lies further than any shop will ever come is made up.
const PASS_OVER: &str = "
    select case
        when $2 - last > 1000000000000 then last
        when $2 - last > 100000 then setval($1::regclass, $2)
        else (select max(nextval($1::regclass)) from generate_series(last + 1, $2))
    end
    from (select coalesce(pg_sequence_last_value($1::regclass), 0) as last) as now";

/// Never gives out this number or a smaller one again.
pub(crate) async fn skip(tx: &mut PgConnection, sequence: &str, number: i64) -> Result<()> {
    sqlx::query(PASS_OVER).bind(sequence).bind(number).execute(tx).await?;
    Ok(())
}
