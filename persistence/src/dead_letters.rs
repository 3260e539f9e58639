//! Dead letters: messages that could not be applied, stored until an administrator redrives or
//! drops them.

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

/// Identifies a dead letter.
pub type DeadLetterId = Uuid;

/// A message that could not be applied.
#[derive(Debug, Clone, PartialEq, Serialize, FromRow, ToSchema)]
pub struct DeadLetter {
    /// Follows from the message: a message that is stored twice is one dead letter.
    #[schema(value_type = uuid::Uuid)]
    pub id: DeadLetterId,
    /// The queue that it came from.
    #[schema(example = "product.created")]
    pub queue: String,
    /// The event's name, if it is known.
    #[schema(example = "product.created")]
    pub event: String,
    /// The id that its publisher gave it.
    pub message_id: Option<String>,
    /// The version of the row that the event is about.
    #[schema(example = 2)]
    pub version: Option<i64>,
    /// Why the last attempt failed.
    #[schema(example = "the new stock is less than what is already sold")]
    pub reason: String,
    /// When it became a dead letter.
    #[sqlx(try_from = "jiff_sqlx::Timestamp")]
    pub first_failed_at: Timestamp,
    /// The number of attempts, redrives included.
    #[schema(example = 1)]
    pub tries: i32,
    /// All headers of the message.
    #[schema(value_type = Object)]
    pub headers: Value,
    /// All properties of the message.
    #[schema(value_type = Object)]
    pub properties: Value,
    /// Its body.
    #[serde(flatten)]
    #[sqlx(try_from = "Vec<u8>")]
    pub payload: Payload,
}

impl DeadLetter {
    /// The id of a message's dead letter. It is the same each time the message is dead-lettered: a
    /// process that ends before it acknowledges the message dead-letters it again.
    pub fn id(
        queue: &str,
        message_id: Option<&str>,
        version: Option<i64>,
        body: &[u8],
    ) -> DeadLetterId {
        let name = format!("dead letter {queue:?} {message_id:?} {version:?} ");
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &[name.as_bytes(), body].concat())
    }

    /// Its position in the list.
    pub fn place(&self) -> DeadLetterCursor {
        DeadLetterCursor { first_failed_at: self.first_failed_at, id: self.id }
    }
}

/// A message's body. Other programs may publish messages, so it may not be text.
///
/// It is serialised as `payload` if it is text, else as `payload_base64`.
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
        let payload = text("The body, if it is text.").schema_type(text_or_null);
        let base64 = text("The body, if it is not text.");
        ObjectBuilder::new()
            .property("payload", payload)
            .property("payload_base64", base64)
            .required("payload")
            .into()
    }
}

impl ToSchema for Payload {}

/// The position of a dead letter in the list, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DeadLetterCursor {
    first_failed_at: Timestamp,
    id: DeadLetterId,
}

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

/// Stores dead letters. One that is stored already changes nothing.
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

/// PostgreSQL cannot store U+0000 in a text: the replacement character takes its place.
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
    page: PageRequest<DeadLetterCursor>,
) -> Result<Vec<DeadLetter>> {
    let list = sqlx::query_as(LIST)
        .bind(queue.map(storable))
        .bind(page.after.map(|cursor| cursor.first_failed_at.to_sqlx()))
        .bind(page.after.map(|cursor| cursor.id))
        .bind(page.limit);
    Ok(list.fetch_all(connection).await?)
}

const FIND: &str = "
    select id, queue, event, message_id, version, reason, first_failed_at, tries, headers, properties, payload
    from dead_letters where id = $1";

/// Finds a dead letter.
pub async fn find(connection: &mut PgConnection, id: DeadLetterId) -> Result<DeadLetter> {
    let found = sqlx::query_as(FIND).bind(id).fetch_optional(connection).await?;
    found.ok_or(Error::NotFound("dead letter"))
}

const FAIL: &str = "update dead_letters set reason = $2, tries = tries + 1 where id = $1";

/// Records a failed attempt to redrive it.
pub async fn fail(tx: &mut PgConnection, id: DeadLetterId, reason: &str) -> Result<()> {
    sqlx::query(FAIL).bind(id).bind(storable(reason)).execute(tx).await?;
    Ok(())
}

const DELETE: &str = "delete from dead_letters where id = $1";

/// Deletes it. Returns whether it existed.
pub async fn delete(tx: &mut PgConnection, id: DeadLetterId) -> Result<bool> {
    Ok(sqlx::query(DELETE).bind(id).execute(tx).await?.rows_affected() == 1)
}

/// The number of dead letters by queue, without empty queues.
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
        let cursor = DeadLetterCursor { first_failed_at, id: Uuid::from_u128(7) };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for invalid in ["", ".", "7", "7.7", "x.00000000-0000-0000-0000-000000000007"] {
            assert!(invalid.parse::<DeadLetterCursor>().is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_payload_is_serialised_as_text_or_in_base64() {
        let shown = |bytes: &[u8]| serde_json::to_value(Payload(bytes.into())).unwrap();
        assert_eq!(shown("{\"id\": \"Вася\"}".as_bytes())["payload"], "{\"id\": \"Вася\"}");
        assert_eq!(shown(b"").as_object().unwrap().len(), 1);
        let binary = serde_json::json!({"payload": null, "payload_base64": "//4="});
        assert_eq!(shown(b"\xff\xfe"), binary);
    }

    #[test]
    fn u_0000_is_replaced_in_names_and_values() {
        let value = serde_json::json!({"a\0": ["\0", {"b": "c\0"}], "n": 1});
        let stored = serde_json::json!({"a\u{fffd}": ["\u{fffd}", {"b": "c\u{fffd}"}], "n": 1});
        assert_eq!(storable_json(&value), stored);
    }
}
