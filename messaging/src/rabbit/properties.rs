//! A message's AMQP properties: written, read, and kept when it becomes a dead letter.

use amqprs::{BasicProperties, FieldName, FieldTable, FieldValue};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use shop_runtime::now;

use crate::{
    broker::Message,
    dead_letters::{DeadLetterMeta, object},
};

const VERSION: &str = "version";
const TRACEPARENT: &str = "traceparent";
const REASON: &str = "reason";
const FIRST_FAILURE: &str = "x-first-failure";
const TRIES: &str = "x-tries";
const ORIGINAL_EXCHANGE: &str = "x-original-exchange";
const ORIGINAL_ROUTING_KEY: &str = "x-original-routing-key";
const ORIGINAL_USER_ID: &str = "x-original-user-id";

const PERSISTENT: u8 = 2;
const LONGEST_REASON: usize = 1024; // in bytes; all headers must fit in one frame

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

/// A message that came from `exchange` with `routing_key`; names still have their prefix.
pub fn read(
    properties: &BasicProperties,
    exchange: &str,
    routing_key: &str,
    body: Vec<u8>,
) -> Message {
    let headers = properties.headers();
    let text = |name| headers.and_then(|headers| text(get(headers, name)?));
    let (exchange, routing_key) = headers
        .and_then(|headers| parked_from(headers).or_else(|| dead_lettered_from(headers)))
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

/// How often the message was handed out before.
pub fn tries(properties: &BasicProperties) -> u32 {
    let count = properties.headers().and_then(|headers| integer(get(headers, "x-delivery-count")?));
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

/// The properties of the dead letter made of what came from `exchange` with `routing_key`.
pub fn dead_letter(
    properties: &BasicProperties,
    exchange: &str,
    routing_key: &str,
    tries: u32,
    reason: &str,
) -> BasicProperties {
    let mut headers = properties.headers().cloned().unwrap_or_default();
    let reason = &reason[..reason.floor_char_boundary(LONGEST_REASON)];
    set(&mut headers, REASON, reason.into());
    set(&mut headers, ORIGINAL_EXCHANGE, exchange.into());
    set(&mut headers, ORIGINAL_ROUTING_KEY, routing_key.into());
    if get(&headers, FIRST_FAILURE).is_none() {
        set(&mut headers, FIRST_FAILURE, now().to_string().into());
    }
    set(&mut headers, TRIES, FieldValue::l(i64::from(tries) + 1));
    // RabbitMQ would send copies to these, refuse another's user id, and let the copy expire.
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

/// What a dead letter tells besides its message. RabbitMQ makes one itself of what was handed out again
/// `delivery_limit` times.
pub fn dead_letter_meta(properties: &BasicProperties, delivery_limit: u32) -> DeadLetterMeta {
    let headers = properties.headers();
    let header = |name| get(headers?, name);
    let death = headers.and_then(first_death);
    let failed_at = header(FIRST_FAILURE).or_else(|| get(death.as_ref()?, "time"));
    let tries = match header(TRIES) {
        Some(tries) => integer(tries).and_then(|tries| tries.try_into().ok()).unwrap_or(1),
        None if death.is_some() => delivery_limit.saturating_add(1),
        None => 1,
    };
    DeadLetterMeta {
        failed_at: failed_at.and_then(moment),
        tries,
        headers: headers.map(readable_table).unwrap_or_default(),
        properties: object([
            ("content_type", json!(properties.content_type())),
            ("content_encoding", json!(properties.content_encoding())),
            ("delivery_mode", json!(properties.delivery_mode())),
            ("priority", json!(properties.priority())),
            ("correlation_id", json!(properties.correlation_id())),
            ("reply_to", json!(properties.reply_to())),
            ("expiration", json!(properties.expiration())),
            ("message_id", json!(properties.message_id())),
            ("timestamp", properties.timestamp().map_or(Value::Null, readable_time)),
            ("type", json!(properties.message_type())),
            ("user_id", json!(properties.user_id())),
            ("app_id", json!(properties.app_id())),
            ("cluster_id", json!(properties.cluster_id())),
        ]),
    }
}

fn readable_table(table: &FieldTable) -> Map<String, Value> {
    let fields = table.as_ref().iter();
    fields.map(|(name, value)| (name.to_string(), readable(value))).collect()
}

fn readable(value: &FieldValue) -> Value {
    match value {
        FieldValue::t(truth) => json!(truth),
        FieldValue::T(seconds) => readable_time(*seconds),
        FieldValue::f(number) => json!(number),
        FieldValue::d(number) => json!(number),
        FieldValue::D(number) => json!(number.to_string()),
        FieldValue::S(text) => json!(text.to_string()),
        FieldValue::A(values) => Vec::from(values.clone()).iter().map(readable).collect(),
        FieldValue::F(table) => readable_table(table).into(),
        FieldValue::x(bytes) => json!(String::from_utf8_lossy(&Vec::from(bytes.clone()))),
        FieldValue::V => Value::Null,
        number => json!(integer(number)),
    }
}

/// As RFC 3339 writes it, where the calendar reaches.
fn readable_time(seconds: u64) -> Value {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| json!(seconds), |time| json!(time))
}

fn moment(value: &FieldValue) -> Option<Timestamp> {
    match value {
        FieldValue::S(text) => text.as_ref().parse().ok(),
        FieldValue::T(seconds) => Timestamp::from_second((*seconds).try_into().ok()?).ok(),
        _ => None,
    }
}

/// Where a dead letter was published that we parked.
fn parked_from(headers: &FieldTable) -> Option<(String, String)> {
    Some((text(get(headers, ORIGINAL_EXCHANGE)?)?, text(get(headers, ORIGINAL_ROUTING_KEY)?)?))
}

/// Where a dead letter was published that RabbitMQ made of it, after too many tries.
fn dead_lettered_from(headers: &FieldTable) -> Option<(String, String)> {
    let first = &first_death(headers)?;
    let FieldValue::A(keys) = get(first, "routing-keys")? else { return None };
    let keys: Vec<FieldValue> = keys.clone().into();
    Some((text(get(first, "exchange")?)?, text(keys.first()?)?))
}

/// What RabbitMQ wrote when it made a dead letter of it, the first time.
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

/// amqprs miscounts the table when a name is inserted twice, which breaks the connection.
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
        FieldValue::T(n) => n.try_into().ok(), // what some clients make of an unsigned integer
        _ => None,
    }
}
