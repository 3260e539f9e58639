//! An event's steps through the broker: published here, taken on another node, both of the trace that caused it.

use shop_persistence::outbox::Waiting;
use shop_runtime::{Span, SpanKind};

use crate::subscriptions::name;
use crate::{Broker, Delivery, topology};

/// Begins to publish an event. The step ends when the broker has confirmed it.
pub fn publish(event: &Waiting, broker: &Broker) -> Span {
    let context = event.traceparent.as_deref().and_then(|traceparent| traceparent.parse().ok());
    let mut step =
        Span::begin(context, SpanKind::Producer, format_args!("publish {}", event.event));
    let (exchange, routing_key) = topology::route(&event.event);
    let destination = if exchange.is_empty() { routing_key } else { exchange };
    step.set("messaging.system", broker.system());
    step.set("messaging.operation.type", "send");
    step.set("messaging.destination.name", destination);
    step.set("messaging.message.id", event.message_id.to_string().as_str());
    step
}

/// A delivery, and the step that takes care of it: from when it is taken until it is acknowledged.
#[derive(Debug)]
pub struct Taken {
    pub delivery: Delivery,
    pub step: Span,
}

impl Taken {
    /// Goes on with the message's trace; one that came without starts one.
    pub fn new(delivery: Delivery, queue: &str, broker: &Broker) -> Taken {
        let message = &delivery.message;
        let context =
            message.traceparent.as_deref().and_then(|traceparent| traceparent.parse().ok());
        let mut step =
            Span::begin(context, SpanKind::Consumer, format_args!("consume {}", name(message)));
        step.set("messaging.system", broker.system());
        step.set("messaging.operation.type", "process");
        step.set("messaging.destination.name", queue);
        step.set("messaging.message.id", message.id.as_deref().unwrap_or_default());
        Taken { delivery, step }
    }

    /// Does `work` for this message.
    pub fn go_on<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        self.step.trace().scope(work)
    }
}
