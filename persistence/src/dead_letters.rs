//! Dead letters: messages that could not be applied, kept until a person redrives or drops them.

use std::fmt::{self, Display};
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::pages::PageRequest;
use crate::{Error, InvalidValue, Result};

/// Which dead letter.
pub type DeadLetterId = Uuid;

/// A message that could not be applied.
#[derive(Debug, Clone, PartialEq, Serialize, FromRow, ToSchema)]
pub struct DeadLetter {
    /// Follows from all that identifies it: what is stored twice is one dead letter.
    #[schema(value_type = uuid::Uuid)]
    pub id: DeadLetterId,
    /// The queue that it came from.
    #[schema(example = "product.created")]
    pub queue: String,
    /// The event's name, as far as it can be told.
    #[schema(example = "product.created")]
    pub event: String,
    /// What its publisher called it.
    pub message_id: Option<String>,
    /// Grows with every change of that one user or product.
    #[schema(example = 2)]
    pub version: Option<i64>,
    /// Why it could not be applied when it was tried last.
    #[schema(example = "the new stock is less than what is already sold")]
    pub reason: String,
    /// When it became a dead letter.
    #[sqlx(try_from = "jiff_sqlx::Timestamp")]
    pub first_failed_at: Timestamp,
    /// How often it was tried, by the shop and by people.
    #[schema(example = 1)]
    pub tries: i32,
    /// All headers that came with it.
    #[schema(value_type = Object)]
    pub headers: Value,
    /// All properties that came with it.
    #[schema(value_type = Object)]
    pub properties: Value,
    /// Its content.
    #[serde(flatten)]
    #[sqlx(try_from = "Vec<u8>")]
    pub payload: Payload,
}

impl DeadLetter {
    /// The id of the dead letter that this message is, however often it is parked before a person looks at it: who dies
    /// between parking a message and acknowledging it parks it again.
    pub fn id(
        queue: &str,
        message_id: Option<&str>,
        version: Option<i64>,
        body: &[u8],
    ) -> DeadLetterId {
        let name = format!("dead letter {queue:?} {message_id:?} {version:?} ");
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &[name.as_bytes(), body].concat())
    }

    /// Where it stands among the others.
    pub fn place(&self) -> DeadLetterCursor {
        DeadLetterCursor { first_failed_at: self.first_failed_at, id: self.id }
    }
}

/// A message's content: anybody may have written it, so it need not be a text.
///
/// It is shown as `payload` where it is one, and else as `payload_base64`.
#[derive(Clone, PartialEq)]
pub struct Payload(pub Vec<u8>);

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload(bytes)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match std::str::from_utf8(&self.0) {
            Ok(text) => map.serialize_entry("payload", text)?,
            Err(_) => {
                map.serialize_entry("payload", &None::<&str>)?;
                map.serialize_entry("payload_base64", &BASE64_STANDARD.encode(&self.0))?;
            }
        }
        map.end()
    }
}

impl PartialSchema for Payload {
    fn schema() -> RefOr<Schema> {
        let text = |about| ObjectBuilder::new().schema_type(Type::String).description(Some(about));
        let text_or_null = SchemaType::from_iter([Type::String, Type::Null]);
        let payload = text("The content, where it is a text.").schema_type(text_or_null);
        let base64 = text("The content, where it is no text.");
        ObjectBuilder::new()
            .property("payload", payload)
            .property("payload_base64", base64)
            .required("payload")
            .into()
    }
}

impl ToSchema for Payload {}

/// Where a dead letter stands: the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DeadLetterCursor {
    first_failed_at: Timestamp,
    id: DeadLetterId,
}

/// Shows it as the cursor of a list.
impl Display for DeadLetterCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.first_failed_at.as_microsecond(), self.id)
    }
}

impl FromStr for DeadLetterCursor {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<DeadLetterCursor, InvalidValue> {
        let read = || {
            let (microseconds, id) = text.split_once('.')?;
            let first_failed_at = Timestamp::from_microsecond(microseconds.parse().ok()?).ok()?;
            Some(DeadLetterCursor { first_failed_at, id: id.parse().ok()? })
        };
        read().ok_or(InvalidValue("must be taken from the header Link of the page before".into()))
    }
}

impl TryFrom<String> for DeadLetterCursor {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<DeadLetterCursor, InvalidValue> {
        text.parse()
    }
}

const INSERT: &str = "
    insert into dead_letters
        (id, queue, event, message_id, version, reason, first_failed_at, tries, headers, properties, payload)
    select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
        $7::timestamptz[], $8::integer[], $9::jsonb[], $10::jsonb[], $11::bytea[])
    on conflict (id) do nothing";

/// Keeps dead letters. Those that are kept already change nothing.
pub async fn insert(tx: &mut PgConnection, letters: &[DeadLetter]) -> Result<()> {
    fn each<'a, T>(letters: &'a [DeadLetter], part: impl FnMut(&'a DeadLetter) -> T) -> Vec<T> {
        letters.iter().map(part).collect()
    }
    sqlx::query(INSERT)
        .bind(each(letters, |letter| letter.id))
        .bind(each(letters, |letter| storable(&letter.queue)))
        .bind(each(letters, |letter| storable(&letter.event)))
        .bind(each(letters, |letter| letter.message_id.as_deref().map(storable)))
        .bind(each(letters, |letter| letter.version))
        .bind(each(letters, |letter| storable(&letter.reason)))
        .bind(each(letters, |letter| letter.first_failed_at.to_sqlx()))
        .bind(each(letters, |letter| letter.tries))
        .bind(each(letters, |letter| storable_json(&letter.headers)))
        .bind(each(letters, |letter| storable_json(&letter.properties)))
        .bind(each(letters, |letter| letter.payload.0.as_slice()))
        .execute(tx)
        .await?;
    Ok(())
}

/// PostgreSQL stores no U+0000 in a text; the sign for what cannot be shown stands for it.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn storable_json(value: &Value) -> Value {
    match value {
        Value::String(text) => storable(text).into(),
        Value::Array(values) => values.iter().map(storable_json).collect(),
        Value::Object(map) => {
            map.iter().map(|(name, value)| (storable(name), storable_json(value))).collect()
        }
        other => other.clone(),
    }
}

const LIST: &str = "
    select id, queue, event, message_id, version, reason, first_failed_at, tries, headers, properties, payload
    from dead_letters
    where (first_failed_at, id) > (coalesce($2::timestamptz, '-infinity'),
                                   coalesce($3::uuid, '00000000-0000-0000-0000-000000000000'))
      and ($1::text is null or queue = $1)
    order by first_failed_at, id limit $4";

/// Dead letters, the oldest first; all, or those of one queue.
pub async fn list(
    connection: &mut PgConnection,
    queue: Option<&str>,
    part: PageRequest<DeadLetterCursor>,
) -> Result<Vec<DeadLetter>> {
    let list = sqlx::query_as(LIST)
        .bind(queue.map(storable))
        .bind(part.after.map(|place| place.first_failed_at.to_sqlx()))
        .bind(part.after.map(|place| place.id))
        .bind(part.limit);
    Ok(list.fetch_all(connection).await?)
}

const FIND: &str = "
    select id, queue, event, message_id, version, reason, first_failed_at, tries, headers, properties, payload
    from dead_letters where id = $1";

/// One dead letter.
pub async fn find(connection: &mut PgConnection, id: DeadLetterId) -> Result<DeadLetter> {
    let found = sqlx::query_as(FIND).bind(id).fetch_optional(connection).await?;
    found.ok_or(Error::NotFound("dead letter"))
}

const FAIL: &str = "update dead_letters set reason = $2, tries = tries + 1 where id = $1";

/// It was tried once more and could not be applied, for this reason.
pub async fn fail(tx: &mut PgConnection, id: DeadLetterId, reason: &str) -> Result<()> {
    sqlx::query(FAIL).bind(id).bind(storable(reason)).execute(tx).await?;
    Ok(())
}

const DELETE: &str = "delete from dead_letters where id = $1";

/// Forgets it. Says whether it was there.
pub async fn delete(tx: &mut PgConnection, id: DeadLetterId) -> Result<bool> {
    Ok(sqlx::query(DELETE).bind(id).execute(tx).await?.rows_affected() == 1)
}

/// How many there are of each queue that has any.
pub async fn count(connection: &mut PgConnection) -> Result<Vec<(String, i64)>> {
    let count = "select queue, count(*) from dead_letters group by queue";
    Ok(sqlx::query_as(count).fetch_all(connection).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_written() {
        let first_failed_at = Timestamp::from_microsecond(1_790_000_000_123_456).unwrap();
        let place = DeadLetterCursor { first_failed_at, id: Uuid::from_u128(7) };
        assert_eq!(place.to_string().parse(), Ok(place));
        for invalid_field in ["", ".", "7", "7.7", "x.00000000-0000-0000-0000-000000000007"] {
            assert!(invalid_field.parse::<DeadLetterCursor>().is_err(), "{invalid_field}");
        }
    }

    #[test]
    fn a_payload_is_shown_as_the_text_that_it_is_or_else_in_base64() {
        let shown = |bytes: &[u8]| serde_json::to_value(Payload(bytes.into())).unwrap();
        assert_eq!(shown("{\"id\": \"Вася\"}".as_bytes())["payload"], "{\"id\": \"Вася\"}");
        assert_eq!(shown(b"").as_object().unwrap().len(), 1);
        let binary = serde_json::json!({"payload": null, "payload_base64": "//4="});
        assert_eq!(shown(b"\xff\xfe"), binary);
    }

    #[test]
    fn what_a_text_of_the_database_cannot_hold_is_replaced_everywhere() {
        let value = serde_json::json!({"a\0": ["\0", {"b": "c\0"}], "n": 1});
        let stored = serde_json::json!({"a\u{fffd}": ["\u{fffd}", {"b": "c\u{fffd}"}], "n": 1});
        assert_eq!(storable_json(&value), stored);
    }
}
