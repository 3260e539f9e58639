//! A session to publish on RabbitMQ: a pipeline of messages, each in flight until it is confirmed.

use std::collections::BTreeMap;
use std::{future, mem};

use amqprs::BasicProperties;
use amqprs::channel::{BasicPublishArguments, ConfirmSelectArguments};
use futures::FutureExt;
use tokio::select;
use tokio::time::{Instant, sleep_until};

use super::session::{CALL_TIMEOUT, Confirmation, Session, within};
use super::{Rabbit, properties};
use crate::message::{Message, Result};

const MAX_NAME: usize = 255; // in bytes; amqprs panics over it

/// A session to publish on.
#[derive(Debug)]
pub struct Publisher {
    rabbit: Rabbit,
    session: Session,
    last_tag: u64,
    in_flight: BTreeMap<u64, (i64, Instant)>,
}

impl Publisher {
    pub(super) async fn open(rabbit: &Rabbit) -> Result<Self> {
        let mut session = Session::open(&rabbit.config).await?;
        let prepared = async {
            rabbit.declare(&session.channel).await?;
            within(session.channel.confirm_select(ConfirmSelectArguments::default())).await
        };
        match prepared.await {
            Ok(()) => {
                let rabbit = rabbit.clone();
                Ok(Self { rabbit, session, last_tag: 0, in_flight: BTreeMap::new() })
            }
            Err(cause) => Err(session.refused(cause)),
        }
    }

    pub(crate) async fn publish(&mut self, id: i64, message: Message) -> Result<()> {
        let exchange = self.rabbit.name(&message.exchange);
        let routing_key = self.rabbit.routing_key(&message.exchange, &message.routing_key);
        let names =
            [Some(&exchange), Some(&routing_key), message.id.as_ref(), message.kind.as_ref()];
        if names.into_iter().flatten().any(|name| name.len() > MAX_NAME) {
            let cause = format!("message {:?} has a name longer than {MAX_NAME} bytes", message.id);
            return Err(self.session.end(cause));
        }
        self.send(id, &exchange, &routing_key, properties::write(&message), message.body).await
    }

    /// Counts messages as the server does: the number is the tag of the confirmation.
    pub(super) async fn send(
        &mut self,
        id: i64,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: Vec<u8>,
    ) -> Result<()> {
        self.session.check()?;
        let arguments = BasicPublishArguments::new(exchange, routing_key).mandatory(true).finish();
        let sent = within(self.session.channel.basic_publish(properties, body, arguments)).await;
        self.session.check_call(sent)?;
        self.last_tag += 1;
        self.in_flight.insert(self.last_tag, (id, Instant::now()));
        Ok(())
    }

    pub(crate) async fn confirmed(&mut self) -> Result<Vec<i64>> {
        loop {
            let oldest = self.in_flight.first_key_value().map(|(_, (_, since))| *since);
            let overdue = async {
                match oldest {
                    Some(since) => sleep_until(since + CALL_TIMEOUT).await,
                    None => future::pending().await,
                }
            };
            let confirmation = select! {
                biased;
                confirmation = self.session.event() => confirmation?,
                () = overdue => {
                    let cause = format!("no confirmation within {} s", CALL_TIMEOUT.as_secs());
                    return Err(self.session.end(cause));
                }
            };
            let mut ids = self.settle(&confirmation);
            while let Some(Ok(confirmation)) = self.session.event().now_or_never() {
                ids.extend(self.settle(&confirmation));
            }
            if !ids.is_empty() {
                return Ok(ids);
            }
        }
    }

    fn settle(&mut self, confirmation: &Confirmation) -> Vec<i64> {
        let settled = if confirmation.multiple {
            let later = self.in_flight.split_off(&(confirmation.tag + 1));
            mem::replace(&mut self.in_flight, later).into_values().collect()
        } else {
            Vec::from_iter(self.in_flight.remove(&confirmation.tag))
        };
        settled.into_iter().map(|(id, _)| id).collect()
    }

    pub(super) fn is_open(&self) -> bool {
        self.session.is_open()
    }

    pub(crate) async fn close(mut self) {
        self.session.close().await;
    }
}
