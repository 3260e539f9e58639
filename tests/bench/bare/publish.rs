//! Messages published and confirmed, then taken and acknowledged, over connections like the shop's: what RabbitMQ alone
//! costs.

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

/// As the intakes of the shop have it by default; the window is the relay's.
const PREFETCH: u16 = 1024;
const PERSISTENT: u8 = 2;
const DELIVERY_LIMIT: i64 = 20;

const QUEUE: &str = "bench.raw";
const PATIENCE: Duration = Duration::from_secs(30);

/// How many seconds each took.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Took {
    pub publishing: f64,
    pub consuming: f64,
}

/// Publishes so many messages, and takes them. Prints how long that took.
pub async fn publish(broker_port: u16, messages: u64) -> anyhow::Result<()> {
    let arguments = OpenConnectionArguments::new("127.0.0.1", broker_port, "guest", "guest");
    let connection = Connection::open(&arguments).await?;
    connection.register_callback(DefaultConnectionCallback).await?;
    let channel = connection.open_channel(None).await?;
    let (settled, settlements) = unbounded_channel();
    channel.register_callback(Settling(settled)).await?;
    channel.queue_declare(queue()?).await?;
    channel.confirm_select(ConfirmSelectArguments::default()).await?;
    let since = Instant::now();
    send_all(&channel, messages, settlements).await?;
    let publishing = since.elapsed().as_secs_f64();
    let since = Instant::now();
    take_all(&channel, messages).await?;
    let consuming = since.elapsed().as_secs_f64();
    channel.queue_delete(QueueDeleteArguments::new(QUEUE)).await?;
    connection.close().await?;
    println!("{}", serde_json::to_string(&Took { publishing, consuming })?);
    Ok(())
}

async fn send_all(
    channel: &Channel,
    messages: u64,
    mut settlements: UnboundedReceiver<Settlement>,
) -> anyhow::Result<()> {
    let (mut sent, mut in_flight) = (0, BTreeSet::new());
    while sent < messages || !in_flight.is_empty() {
        while sent < messages && in_flight.len() < WINDOW {
            let arguments = BasicPublishArguments::new("", QUEUE).mandatory(true).finish();
            sent += 1;
            in_flight.insert(sent);
            channel.basic_publish(properties(sent)?, body(sent), arguments).await?;
        }
        let settlement = timeout(PATIENCE, settlements.recv()).await.context("no confirmation")?;
        match settlement.context("the channel is closed")? {
            Settlement::Confirmed { tag, all_before: true } => {
                in_flight = in_flight.split_off(&(tag + 1));
            }
            Settlement::Confirmed { tag, all_before: false } => drop(in_flight.remove(&tag)),
            Settlement::Refused => bail!("RabbitMQ refuses a message"),
        }
    }
    Ok(())
}

async fn take_all(channel: &Channel, messages: u64) -> anyhow::Result<()> {
    channel.basic_qos(BasicQosArguments::new(0, PREFETCH, false)).await?;
    let arguments = BasicConsumeArguments::new(QUEUE, "");
    let (_, mut deliveries) = channel.basic_consume_rx(arguments).await?;
    let mut taken = 0;
    while taken < messages {
        let first = timeout(PATIENCE, deliveries.recv()).await.context("no delivery")?;
        let mut last = first.context("the channel is closed")?;
        taken += 1;
        while let Ok(next) = deliveries.try_recv() {
            last = next;
            taken += 1;
        }
        let tag = last.deliver.context("a delivery without a tag")?.delivery_tag();
        channel.basic_ack(BasicAckArguments::new(tag, true)).await?;
    }
    ensure!(taken == messages, "{taken} messages were delivered, {messages} were published");
    Ok(())
}

/// A queue like those of the shop.
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

/// The body of an event of the shop.
fn body(number: u64) -> Vec<u8> {
    let name = format!("Blue teapot number {number}");
    json!({"id": number, "name": name, "price": 1990, "quantity": 100, "category_id": 1})
        .to_string()
        .into_bytes()
}

/// The properties of an event of the shop.
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

enum Settlement {
    Confirmed { tag: u64, all_before: bool },
    Refused,
}

/// Passes on what RabbitMQ says of messages.
struct Settling(UnboundedSender<Settlement>);

impl Settling {
    /// Who no longer listens has failed already.
    fn pass_on(&self, settlement: Settlement) {
        self.0.send(settlement).ok();
    }
}

#[async_trait]
impl ChannelCallback for Settling {
    async fn close(&mut self, _: &Channel, _: CloseChannel) -> Result<(), amqprs::error::Error> {
        self.pass_on(Settlement::Refused);
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.pass_on(Settlement::Confirmed { tag: ack.delivery_tag(), all_before: ack.mutiple() });
    }

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {
        self.pass_on(Settlement::Refused);
    }

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {
        self.pass_on(Settlement::Refused);
    }
}
