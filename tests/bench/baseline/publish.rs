//! Publishes messages with confirms, then consumes and acknowledges them, with the settings of the
//! shop: the cost of RabbitMQ alone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use amqprs::callbacks::{ChannelCallback, DefaultConnectionCallback};
use amqprs::channel::{
    BasicAckArguments, BasicConsumeArguments, BasicPublishArguments, BasicQosArguments, Channel,
    ConfirmSelectArguments, QueueDeclareArguments, QueueDeleteArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{
    Ack, BasicProperties, Cancel, CloseChannel, FieldName, FieldTable, FieldValue, Nack, Return,
};
use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shop_messaging::WINDOW;
use shop_messaging::topology::DEAD_LETTERS;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use uuid::Uuid;

/// The default of the shop's consumers. The publish window is the relay's.
const PREFETCH: u16 = 1024;
const PERSISTENT: u8 = 2;
const DELIVERY_LIMIT: i64 = 20;

const QUEUE: &str = "bench.raw";
/// Timeout of one confirm or delivery.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Durations in seconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct PublishTimes {
    pub publishing: f64,
    pub consuming: f64,
}

/// Publishes and then consumes this number of messages. Prints [`PublishTimes`] as JSON.
pub async fn publish(broker_port: u16, messages: u64) -> anyhow::Result<()> {
    let arguments = OpenConnectionArguments::new("127.0.0.1", broker_port, "guest", "guest");
    let connection = Connection::open(&arguments).await?;
    connection.register_callback(DefaultConnectionCallback).await?;
    let channel = connection.open_channel(None).await?;
    let (sender, confirms) = unbounded_channel();
    channel.register_callback(ConfirmHandler(sender)).await?;
    channel.queue_declare(queue()?).await?;
    channel.confirm_select(ConfirmSelectArguments::default()).await?;
    let since = Instant::now();
    publish_all(&channel, messages, confirms).await?;
    let publishing = since.elapsed().as_secs_f64();
    let since = Instant::now();
    consume_all(&channel, messages).await?;
    let consuming = since.elapsed().as_secs_f64();
    channel.queue_delete(QueueDeleteArguments::new(QUEUE)).await?;
    connection.close().await?;
    println!("{}", serde_json::to_string(&PublishTimes { publishing, consuming })?);
    Ok(())
}

async fn publish_all(
    channel: &Channel,
    messages: u64,
    mut confirms: UnboundedReceiver<Confirm>,
) -> anyhow::Result<()> {
    let (mut published, mut in_flight) = (0, BTreeSet::new());
    while published < messages || !in_flight.is_empty() {
        while published < messages && in_flight.len() < WINDOW {
            let arguments = BasicPublishArguments::new("", QUEUE).mandatory(true).finish();
            published += 1;
            in_flight.insert(published);
            channel.basic_publish(properties(published)?, body(published), arguments).await?;
        }
        let confirm = timeout(TIMEOUT, confirms.recv()).await.context("no confirm within 30 s")?;
        match confirm.context("the channel is closed")? {
            Confirm::Ack { tag, multiple: true } => {
                in_flight = in_flight.split_off(&(tag + 1));
            }
            Confirm::Ack { tag, multiple: false } => drop(in_flight.remove(&tag)),
            Confirm::Rejected => bail!("RabbitMQ rejects a message"),
        }
    }
    Ok(())
}

async fn consume_all(channel: &Channel, messages: u64) -> anyhow::Result<()> {
    channel.basic_qos(BasicQosArguments::new(0, PREFETCH, false)).await?;
    let arguments = BasicConsumeArguments::new(QUEUE, "");
    let (_, mut deliveries) = channel.basic_consume_rx(arguments).await?;
    let mut consumed = 0;
    while consumed < messages {
        let first = timeout(TIMEOUT, deliveries.recv()).await.context("no delivery within 30 s")?;
        let mut last = first.context("the channel is closed")?;
        consumed += 1;
        while let Ok(next) = deliveries.try_recv() {
            last = next;
            consumed += 1;
        }
        let tag = last.deliver.context("a delivery without a tag")?.delivery_tag();
        channel.basic_ack(BasicAckArguments::new(tag, true)).await?;
    }
    ensure!(consumed == messages, "{consumed} messages delivered, {messages} published");
    Ok(())
}

/// A queue with the arguments of the shop's queues.
fn queue() -> anyhow::Result<QueueDeclareArguments> {
    let mut arguments = FieldTable::new();
    for (name, value) in [
        ("x-queue-type", FieldValue::from("quorum")),
        ("x-delivery-limit", FieldValue::l(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", FieldValue::from(DEAD_LETTERS)),
        ("x-dead-letter-routing-key", FieldValue::from(QUEUE)),
    ] {
        arguments.insert(FieldName::try_from(name)?, value);
    }
    Ok(QueueDeclareArguments::durable_client_named(QUEUE).arguments(arguments).finish())
}

/// The body of a product event.
fn body(number: u64) -> Vec<u8> {
    let name = format!("Blue teapot number {number}");
    json!({"id": number, "name": name, "price": 1990, "quantity": 100, "category_id": 1})
        .to_string()
        .into_bytes()
}

/// The properties of a product event.
fn properties(number: u64) -> anyhow::Result<BasicProperties> {
    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const SECONDS: u64 = 1_700_000_000;
    let mut headers = FieldTable::new();
    headers.insert(FieldName::try_from("version")?, FieldValue::l(i64::try_from(number)?));
    headers.insert(FieldName::try_from("traceparent")?, FieldValue::from(TRACEPARENT));
    let mut properties = BasicProperties::default();
    properties
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json")
        .with_headers(headers)
        .with_message_id(&Uuid::now_v7().to_string())
        .with_message_type("product.created")
        .with_timestamp(SECONDS);
    Ok(properties)
}

enum Confirm {
    /// `multiple` includes all earlier tags.
    Ack {
        tag: u64,
        multiple: bool,
    },
    Rejected,
}

/// Sends the confirms of RabbitMQ to the publishing loop.
struct ConfirmHandler(UnboundedSender<Confirm>);

impl ConfirmHandler {
    fn send(&self, confirm: Confirm) {
        self.0.send(confirm).ok(); // fails only if the loop has ended with an error
    }
}

#[async_trait]
impl ChannelCallback for ConfirmHandler {
    async fn close(&mut self, _: &Channel, _: CloseChannel) -> Result<(), amqprs::error::Error> {
        self.send(Confirm::Rejected);
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.send(Confirm::Ack { tag: ack.delivery_tag(), multiple: ack.mutiple() });
    }

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {
        self.send(Confirm::Rejected);
    }

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {
        self.send(Confirm::Rejected);
    }
}
