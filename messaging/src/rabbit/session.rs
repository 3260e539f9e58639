//! One connection to RabbitMQ with one channel.
//!
//! amqprs does not reconnect and reports confirms to callbacks. The callbacks forward them, and the
//! channel's callback owns the only sender of `events`: when amqprs ends its tasks, for whatever
//! reason, the receiver ends too, and the session with it.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use amqprs::callbacks::{ChannelCallback, ConnectionCallback};
use amqprs::channel::Channel;
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::error::Error as AmqpError;
use amqprs::{Ack, BasicProperties, Cancel, Close, CloseChannel, Nack, Return};
use async_trait::async_trait;
use secrecy::ExposeSecret;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, WeakUnboundedSender};
use tokio::time::timeout;

use super::RabbitConfig;
use crate::message::{Error, Result};

/// The maximum duration of a call and of a confirmation. amqprs has no timeout.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const HEARTBEAT_SECONDS: u16 = 10; // with 1, amqprs loops without a pause

/// The broker confirmed this message, or all up to it.
#[derive(Debug)]
pub struct Confirmation {
    pub tag: u64,
    pub multiple: bool,
}

type Event = Outcome<Confirmation>;

/// The result of a call, or why it failed.
pub type Outcome<T> = std::result::Result<T, String>;

pub struct Session {
    pub channel: Channel, // dropped before its connection
    connection: Connection,
    broker: String,
    events: UnboundedReceiver<Event>,
    error: Option<Error>,
    disconnected: bool,
}

impl Session {
    /// Connects and opens a channel.
    pub async fn open(config: &RabbitConfig) -> Result<Self> {
        let broker = format!("rabbitmq at {}:{}", config.host, config.port);
        let connect_error = |cause| Error::Connect { broker: broker.clone(), cause };
        let RabbitConfig { host, port, user, password, vhost, connection_name, .. } = config;
        let arguments = OpenConnectionArguments::new(host, *port, user, password.expose_secret())
            .virtual_host(vhost)
            .connection_name(connection_name)
            .heartbeat(HEARTBEAT_SECONDS)
            .finish();
        let connection =
            within(Connection::open(&arguments)).await.map_err(refusal).map_err(connect_error)?;
        let (sender, events) = mpsc::unbounded_channel();
        let on_connection = OnConnection(sender.downgrade());
        within(connection.register_callback(on_connection)).await.map_err(connect_error)?;
        let channel = within(connection.open_channel(None)).await.map_err(connect_error)?;
        within(channel.register_callback(OnChannel(sender))).await.map_err(connect_error)?;
        tracing::debug!(broker, connection = %connection_name, "a session is open");
        Ok(Self { channel, connection, broker, events, error: None, disconnected: false })
    }

    /// Waits for the next confirmation; an error after the end. Cancel safe.
    pub async fn event(&mut self) -> Result<Confirmation> {
        self.check()?;
        match self.events.recv().await {
            Some(Ok(confirmation)) => Ok(confirmation),
            Some(Err(cause)) => Err(self.error.insert(closed(&self.broker, cause)).clone()),
            None => Err(self.end("the connection broke".to_owned())),
        }
    }

    /// Waits for the end of the session and returns its reason. Cancel safe.
    pub async fn ended(&mut self) -> Error {
        loop {
            if let Err(error) = self.event().await {
                return error;
            }
        }
    }

    /// Ends the session, for the reason that the broker gave or else for `cause`.
    pub fn end(&mut self, cause: String) -> Error {
        if let Some(error) = &self.error {
            return error.clone();
        }
        let reason = std::iter::from_fn(|| self.events.try_recv().ok()).find_map(Event::err);
        self.disconnected = reason.is_none();
        self.error.insert(closed(&self.broker, reason.unwrap_or(cause))).clone()
    }

    /// Ends the session if the call failed.
    pub fn check_call<T>(&mut self, outcome: Outcome<T>) -> Result<T> {
        outcome.map_err(|cause| self.end(cause))
    }

    /// As [`end`](Self::end), for a session that is not in use yet.
    pub fn refused(&mut self, cause: String) -> Error {
        match self.end(cause) {
            Error::Closed { broker, cause } => Error::Connect { broker, cause },
            error => error,
        }
    }

    /// Fails if the session has ended.
    pub fn check(&self) -> Result<()> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// Whether it ended without a reason from the broker.
    pub fn disconnected(&self) -> bool {
        self.disconnected
    }

    pub fn is_open(&self) -> bool {
        self.error.is_none() && self.connection.is_open() && self.channel.is_open()
    }

    /// Closes the connection, with a timeout.
    pub async fn close(&mut self) {
        let closed = timeout(CLOSE_TIMEOUT, self.connection.clone().close()).await;
        tracing::debug!(broker = self.broker, confirmed = closed.is_ok(), "a session is closed");
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("broker", &self.broker)
            .field("connection", &self.connection.connection_name())
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

fn closed(broker: &str, cause: String) -> Error {
    Error::Closed { broker: broker.to_owned(), cause }
}

/// Runs `call` with a timeout.
pub async fn within<T>(
    call: impl Future<Output = std::result::Result<T, AmqpError>>,
) -> Outcome<T> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(outcome) => outcome.map_err(cause),
        Err(_) => Err(format!("no response within {} s", CALL_TIMEOUT.as_secs())),
    }
}

fn cause(error: AmqpError) -> String {
    match error {
        AmqpError::NetworkError(text) => text.trim_start_matches("network io error: ").to_owned(),
        AmqpError::InternalChannelError(_) => "the connection broke".to_owned(),
        other => other.to_string(),
    }
}

/// RabbitMQ does not report a wrong password to amqprs: it closes the connection after a moment.
fn refusal(cause: String) -> String {
    let closed = ["peer shutdown", "interrupted", "reset by peer"];
    if closed.iter().any(|part| cause.contains(part)) {
        format!("it closed the connection, as it does if the user or password is wrong ({cause})")
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
    fn forward(&self, event: Event) {
        self.0.send(event).ok(); // fails if the session was dropped
    }
}

#[async_trait]
impl ChannelCallback for OnChannel {
    async fn close(
        &mut self,
        _: &Channel,
        close: CloseChannel,
    ) -> std::result::Result<(), AmqpError> {
        self.forward(Err(format!("it closed the channel: {}", close.reply_text())));
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> std::result::Result<(), AmqpError> {
        self.forward(Err(
            "it cancelled the consumer, as it does when the queue is deleted".to_owned()
        ));
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> std::result::Result<bool, AmqpError> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.forward(Ok(Confirmation { tag: ack.delivery_tag(), multiple: ack.mutiple() }));
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        self.forward(Err(format!("it refused message {}", nack.delivery_tag())));
    }

    async fn publish_return(
        &mut self,
        _: &Channel,
        returned: Return,
        _: BasicProperties,
        _: Vec<u8>,
    ) {
        self.forward(Err(format!(
            "no queue receives {:?} from exchange {:?}: {}",
            returned.routing_key(),
            returned.exchange(),
            returned.reply_text()
        )));
    }
}
