//! One connection to RabbitMQ with one channel: opened, watched, closed.
//!
//! amqprs never reconnects and does not wait for confirms: it calls back. The callbacks only
//! forward, and the channel's holds the one sender of `events`: when amqprs ends its tasks, for
//! whatever reason, the receiver ends too, and with it the session.

use std::{fmt, future::Future, time::Duration};

use amqprs::{
    Ack, BasicProperties, Cancel, Close, CloseChannel, Nack, Return,
    callbacks::{ChannelCallback, ConnectionCallback},
    channel::Channel,
    connection::{Connection, OpenConnectionArguments},
    error::Error as AmqpError,
};
use async_trait::async_trait;
use secrecy::ExposeSecret;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender, WeakUnboundedSender},
    time::timeout,
};
use tracing::debug;

use super::RabbitConfig;
use crate::broker::{Error, Result};

/// How long the broker may take over anything; amqprs itself would wait for ever.
pub const PATIENCE: Duration = Duration::from_secs(5);
const FAREWELL: Duration = Duration::from_secs(2);
const HEARTBEAT_SECONDS: u16 = 10; // amqprs spins at 1

/// Publishes that the broker took over: this one, or all up to it.
#[derive(Debug)]
pub struct Confirmation {
    pub tag: u64,
    pub multiple: bool,
}

type Event = Outcome<Confirmation>;

/// What a call comes to, or why it comes to nothing.
pub type Outcome<T> = std::result::Result<T, String>;

pub struct Session {
    pub channel: Channel, // dropped before its connection
    connection: Connection,
    broker: String,
    events: UnboundedReceiver<Event>,
    over: Option<Error>,
    broke_off: bool,
}

impl Session {
    /// Connects and opens a channel.
    pub async fn open(config: &RabbitConfig) -> Result<Self> {
        let broker = format!("rabbitmq at {}:{}", config.host, config.port);
        let unopened = |cause| Error::Unopened { broker: broker.clone(), cause };
        let RabbitConfig { host, port, user, password, vhost, connection_name, .. } = config;
        let arguments = OpenConnectionArguments::new(host, *port, user, password.expose_secret())
            .virtual_host(vhost)
            .connection_name(connection_name)
            .heartbeat(HEARTBEAT_SECONDS)
            .finish();
        let connection =
            within(Connection::open(&arguments)).await.map_err(refusal).map_err(unopened)?;
        let (sender, events) = mpsc::unbounded_channel();
        let on_connection = OnConnection(sender.downgrade());
        within(connection.register_callback(on_connection)).await.map_err(unopened)?;
        let channel = within(connection.open_channel(None)).await.map_err(unopened)?;
        within(channel.register_callback(OnChannel(sender))).await.map_err(unopened)?;
        debug!(broker, connection = %connection_name, "session opened");
        Ok(Self { channel, connection, broker, events, over: None, broke_off: false })
    }

    /// What happens next; an error from the end on. Cancel safe.
    pub async fn event(&mut self) -> Result<Confirmation> {
        self.check()?;
        match self.events.recv().await {
            Some(Ok(confirmation)) => Ok(confirmation),
            Some(Err(said)) => Err(self.over.insert(over(&self.broker, said)).clone()),
            None => Err(self.end("the connection broke off".to_owned())),
        }
    }

    /// Why it ended; waits for that. Cancel safe.
    pub async fn ended(&mut self) -> Error {
        loop {
            if let Err(over) = self.event().await {
                return over;
            }
        }
    }

    /// The session is over: because of what the broker said, or else of `cause`.
    pub fn end(&mut self, cause: String) -> Error {
        if let Some(over) = &self.over {
            return over.clone();
        }
        let said = std::iter::from_fn(|| self.events.try_recv().ok()).find_map(Event::err);
        self.broke_off = said.is_none();
        self.over.insert(over(&self.broker, said.unwrap_or(cause))).clone()
    }

    /// A call that came to nothing ends the session.
    pub fn judge<T>(&mut self, outcome: Outcome<T>) -> Result<T> {
        outcome.map_err(|cause| self.end(cause))
    }

    /// As [`end`](Self::end), for a session that was not in use yet.
    pub fn refused(&mut self, cause: String) -> Error {
        match self.end(cause) {
            Error::Over { broker, cause } => Error::Unopened { broker, cause },
            unopened => unopened,
        }
    }

    /// An error if the session is known to be over.
    pub fn check(&self) -> Result<()> {
        self.over.clone().map_or(Ok(()), Err)
    }

    /// Whether it ended and the broker did not say why.
    pub fn broke_off(&self) -> bool {
        self.broke_off
    }

    pub fn is_open(&self) -> bool {
        self.over.is_none() && self.connection.is_open() && self.channel.is_open()
    }

    /// Says goodbye, and goes when nobody answers.
    pub async fn close(&mut self) {
        let farewell = timeout(FAREWELL, self.connection.clone().close()).await;
        debug!(broker = self.broker, answered = farewell.is_ok(), "session closed");
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("broker", &self.broker)
            .field("connection", &self.connection.connection_name())
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

fn over(broker: &str, cause: String) -> Error {
    Error::Over { broker: broker.to_owned(), cause }
}

/// Waits for `call`, but not for ever.
pub async fn within<T>(
    call: impl Future<Output = std::result::Result<T, AmqpError>>,
) -> Outcome<T> {
    match timeout(PATIENCE, call).await {
        Ok(outcome) => outcome.map_err(plainly),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn plainly(error: AmqpError) -> String {
    match error {
        AmqpError::NetworkError(text) => text.trim_start_matches("network io error: ").to_owned(),
        AmqpError::InternalChannelError(_) => "the connection broke off".to_owned(),
        other => other.to_string(),
    }
}

/// RabbitMQ does not tell amqprs of a wrong password: it waits a moment and hangs up.
fn refusal(cause: String) -> String {
    let hung_up = ["peer shutdown", "interrupted", "reset by peer"];
    if hung_up.iter().any(|sign| cause.contains(sign)) {
        format!("it hung up, as it does when the user or the password is wrong ({cause})")
    } else {
        cause
    }
}

struct OnConnection(WeakUnboundedSender<Event>);

#[async_trait]
impl ConnectionCallback for OnConnection {
    async fn close(&mut self, _: &Connection, close: Close) -> std::result::Result<(), AmqpError> {
        if let Some(events) = self.0.upgrade() {
            events.send(Err(format!("it closed the connection: {}", close.reply_text()))).ok();
        }
        Ok(())
    }

    async fn blocked(&mut self, _: &Connection, _: String) {}

    async fn unblocked(&mut self, _: &Connection) {}

    async fn secret_updated(&mut self, _: &Connection) {}
}

struct OnChannel(UnboundedSender<Event>);

impl OnChannel {
    fn tell(&self, event: Event) {
        self.0.send(event).ok(); // the session may be gone
    }
}

#[async_trait]
impl ChannelCallback for OnChannel {
    async fn close(
        &mut self,
        _: &Channel,
        close: CloseChannel,
    ) -> std::result::Result<(), AmqpError> {
        self.tell(Err(format!("it closed the channel: {}", close.reply_text())));
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> std::result::Result<(), AmqpError> {
        self.tell(Err("it cancelled the consumer, as it does when the queue is gone".to_owned()));
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> std::result::Result<bool, AmqpError> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.tell(Ok(Confirmation { tag: ack.delivery_tag(), multiple: ack.mutiple() }));
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        self.tell(Err(format!("it refused message {}", nack.delivery_tag())));
    }

    async fn publish_return(
        &mut self,
        _: &Channel,
        returned: Return,
        _: BasicProperties,
        _: Vec<u8>,
    ) {
        self.tell(Err(format!(
            "no queue gets what goes to {:?} with {:?}: {}",
            returned.exchange(),
            returned.routing_key(),
            returned.reply_text()
        )));
    }
}
