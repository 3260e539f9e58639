//! The AMQP properties of a message: written, read, and copied to a dead letter.

use amqprs::{BasicProperties, FieldName, FieldTable, FieldValue};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use shop_runtime::now;

use crate::message::{DeadLetterMeta, Message, object};

const VERSION: &str = "version";
const TRACEPARENT: &str = "traceparent";
const REASON: &str = "reason";
const FIRST_FAILURE: &str = "x-first-failure";
const ATTEMPTS: &str = "x-tries";
const ORIGINAL_EXCHANGE: &str = "x-original-exchange";
const ORIGINAL_ROUTING_KEY: &str = "x-original-routing-key";
const ORIGINAL_USER_ID: &str = "x-original-user-id";

const PERSISTENT: u8 = 2;
const MAX_REASON: usize = 1024; // in bytes; all headers must fit in one frame

/// The properties that `message` is published with.
pub fn write(message: &Message) -> BasicProperties {
    let mut headers = FieldTable::new();
    if let Some(version) = message.version {
        set(&mut headers, VERSION, FieldValue::l(version));
    }
    if let Some(traceparent) = &message.traceparent {
        set(&mut headers, TRACEPARENT, traceparent.as_str().into());
    }
    if let Some(reason) = &message.reason {
        set(&mut headers, REASON, reason.as_str().into());
    }
    let mut properties = BasicProperties::default();
    properties
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json")
        .with_headers(headers);
    if let Some(id) = &message.id {
        properties.with_message_id(id);
    }
    if let Some(kind) = &message.kind {
        properties.with_message_type(kind);
    }
    if let Some(timestamp) = message.timestamp {
        properties.with_timestamp(timestamp);
    }
    properties
}

/// A message that arrived from `exchange` with `routing_key`. Names keep their prefix.
pub fn read(
    properties: &BasicProperties,
    exchange: &str,
    routing_key: &str,
    body: Vec<u8>,
) -> Message {
    let headers = properties.headers();
    let text = |name| headers.and_then(|headers| text(get(headers, name)?));
    let (exchange, routing_key) = headers
        .and_then(|headers| original_route(headers).or_else(|| dead_lettered_from(headers)))
        .unwrap_or_else(|| (exchange.to_owned(), routing_key.to_owned()));
    Message {
        exchange,
        routing_key,
        id: properties.message_id().cloned(),
        kind: properties.message_type().cloned(),
        version: headers.and_then(|headers| integer(get(headers, VERSION)?)),
        traceparent: text(TRACEPARENT),
        timestamp: properties.timestamp(),
        reason: text(REASON).or_else(|| text("x-first-death-reason")),
        body,
    }
}

/// How often the message was delivered before.
pub fn delivery_count(properties: &BasicProperties) -> u32 {
    let count = properties.headers().and_then(|headers| integer(get(headers, "x-delivery-count")?));
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

/// The properties of the dead letter of a message that arrived from `exchange` with `routing_key`.
pub fn dead_letter(
    properties: &BasicProperties,
    exchange: &str,
    routing_key: &str,
    delivery_count: u32,
    reason: &str,
) -> BasicProperties {
    let mut headers = properties.headers().cloned().unwrap_or_default();
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
    set(&mut headers, REASON, reason.into());
    set(&mut headers, ORIGINAL_EXCHANGE, exchange.into());
    set(&mut headers, ORIGINAL_ROUTING_KEY, routing_key.into());
    if get(&headers, FIRST_FAILURE).is_none() {
        set(&mut headers, FIRST_FAILURE, now().to_string().into());
    }
    set(&mut headers, ATTEMPTS, FieldValue::l(i64::from(delivery_count) + 1));
    // RabbitMQ would send copies to CC and BCC, refuse the user id of another user, and expire the
    // copy.
    for name in ["CC", "BCC"] {
        take(&mut headers, name);
    }
    if let Some(user) = properties.user_id() {
        set(&mut headers, ORIGINAL_USER_ID, user.as_str().into());
    }
    let (user_id, expiration) = (None, None);
    BasicProperties::new(
        properties.content_type().cloned(),
        properties.content_encoding().cloned(),
        Some(headers),
        Some(PERSISTENT),
        properties.priority(),
        properties.correlation_id().cloned(),
        properties.reply_to().cloned(),
        expiration,
        properties.message_id().cloned(),
        properties.timestamp(),
        properties.message_type().cloned(),
        user_id,
        properties.app_id().cloned(),
        properties.cluster_id().cloned(),
    )
}

/// The metadata of a dead letter. RabbitMQ itself dead-letters a message after `delivery_limit`
/// redeliveries, without the shop's headers.
pub fn dead_letter_meta(properties: &BasicProperties, delivery_limit: u32) -> DeadLetterMeta {
    let headers = properties.headers();
    let header = |name| get(headers?, name);
    let death = headers.and_then(first_death);
    let failed_at = header(FIRST_FAILURE).or_else(|| get(death.as_ref()?, "time"));
    let attempts = match header(ATTEMPTS) {
        Some(attempts) => integer(attempts).and_then(|it| it.try_into().ok()).unwrap_or(1),
        None if death.is_some() => delivery_limit.saturating_add(1),
        None => 1,
    };
    DeadLetterMeta {
        failed_at: failed_at.and_then(timestamp),
        attempts,
        headers: headers.map(json_table).unwrap_or_default(),
        properties: object([
            ("content_type", json!(properties.content_type())),
            ("content_encoding", json!(properties.content_encoding())),
            ("delivery_mode", json!(properties.delivery_mode())),
            ("priority", json!(properties.priority())),
            ("correlation_id", json!(properties.correlation_id())),
            ("reply_to", json!(properties.reply_to())),
            ("expiration", json!(properties.expiration())),
            ("message_id", json!(properties.message_id())),
            ("timestamp", properties.timestamp().map_or(Value::Null, json_time)),
            ("type", json!(properties.message_type())),
            ("user_id", json!(properties.user_id())),
            ("app_id", json!(properties.app_id())),
            ("cluster_id", json!(properties.cluster_id())),
        ]),
    }
}

fn json_table(table: &FieldTable) -> Map<String, Value> {
    let fields = table.as_ref().iter();
    fields.map(|(name, value)| (name.to_string(), json_value(value))).collect()
}

fn json_value(value: &FieldValue) -> Value {
    match value {
        FieldValue::t(truth) => json!(truth),
        FieldValue::T(seconds) => json_time(*seconds),
        FieldValue::f(number) => json!(number),
        FieldValue::d(number) => json!(number),
        FieldValue::D(number) => json!(number.to_string()),
        FieldValue::S(text) => json!(text.to_string()),
        FieldValue::A(values) => Vec::from(values.clone()).iter().map(json_value).collect(),
        FieldValue::F(table) => json_table(table).into(),
        FieldValue::x(bytes) => json!(String::from_utf8_lossy(&Vec::from(bytes.clone()))),
        FieldValue::V => Value::Null,
        number => json!(integer(number)),
    }
}

/// RFC 3339 if the calendar contains it, otherwise the number.
fn json_time(seconds: u64) -> Value {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| json!(seconds), |time| json!(time))
}

fn timestamp(value: &FieldValue) -> Option<Timestamp> {
    match value {
        FieldValue::S(text) => text.as_ref().parse().ok(),
        FieldValue::T(seconds) => Timestamp::from_second((*seconds).try_into().ok()?).ok(),
        _ => None,
    }
}

/// Where a message was published that the shop dead-lettered.
fn original_route(headers: &FieldTable) -> Option<(String, String)> {
    Some((text(get(headers, ORIGINAL_EXCHANGE)?)?, text(get(headers, ORIGINAL_ROUTING_KEY)?)?))
}

/// Where a message was published that RabbitMQ dead-lettered over the delivery limit.
fn dead_lettered_from(headers: &FieldTable) -> Option<(String, String)> {
    let first = &first_death(headers)?;
    let FieldValue::A(keys) = get(first, "routing-keys")? else { return None };
    let keys: Vec<FieldValue> = keys.clone().into();
    Some((text(get(first, "exchange")?)?, text(keys.first()?)?))
}

/// What RabbitMQ recorded when it first dead-lettered the message.
fn first_death(headers: &FieldTable) -> Option<FieldTable> {
    let FieldValue::A(deaths) = get(headers, "x-death")? else { return None };
    let deaths: Vec<FieldValue> = deaths.clone().into();
    match deaths.last()? {
        FieldValue::F(first) => Some(first.clone()),
        _ => None,
    }
}

fn get<'a>(table: &'a FieldTable, name: &str) -> Option<&'a FieldValue> {
    table.get(&FieldName::try_from(name).ok()?)
}

fn take(table: &mut FieldTable, name: &str) {
    if let Ok(name) = FieldName::try_from(name) {
        table.remove(&name);
    }
}

/// Inserting a name twice would break the connection: amqprs then counts the table's bytes wrong.
fn set(table: &mut FieldTable, name: &str, value: FieldValue) {
    take(table, name);
    if let Ok(name) = FieldName::try_from(name) {
        table.insert(name, value);
    }
}

fn text(value: &FieldValue) -> Option<String> {
    match value {
        FieldValue::S(text) => Some(text.to_string()),
        _ => None,
    }
}

fn integer(value: &FieldValue) -> Option<i64> {
    match *value {
        FieldValue::b(n) => Some(n.into()),
        FieldValue::B(n) => Some(n.into()),
        FieldValue::s(n) => Some(n.into()),
        FieldValue::u(n) => Some(n.into()),
        FieldValue::I(n) => Some(n.into()),
        FieldValue::i(n) => Some(n.into()),
        FieldValue::l(n) => Some(n),
        FieldValue::T(n) => n.try_into().ok(), // some clients send unsigned integers as timestamps
        _ => None,
    }
}
