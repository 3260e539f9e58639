//! An event's steps through the broker: published here, taken on another node, both of the trace that caused it.

use shop_persistence::outbox::Waiting;
use shop_runtime::{Span, SpanKind};

use crate::subscriptions::name;
use crate::{Broker, Delivery, topology};

/// Begins to publish an event. The span ends when the broker has confirmed it.
pub fn publish(event: &Waiting, broker: &Broker) -> Span {
    let context = event.traceparent.as_deref().and_then(|traceparent| traceparent.parse().ok());
    let mut span =
        Span::start(context, SpanKind::Producer, format_args!("publish {}", event.event));
    let (exchange, routing_key) = topology::route(&event.event);
    let destination = if exchange.is_empty() { routing_key } else { exchange };
    span.set("messaging.system", broker.system());
    span.set("messaging.operation.type", "send");
    span.set("messaging.destination.name", destination);
    span.set("messaging.message.id", event.message_id.to_string().as_str());
    span
}

/// A delivery, and the span that takes care of it: from when it is taken until it is acknowledged.
#[derive(Debug)]
pub struct Taken {
    pub delivery: Delivery,
    pub span: Span,
}

impl Taken {
    /// Goes on with the message's trace; one that came without starts one.
    pub fn new(delivery: Delivery, queue: &str, broker: &Broker) -> Taken {
        let message = &delivery.message;
        let context =
            message.traceparent.as_deref().and_then(|traceparent| traceparent.parse().ok());
        let mut span =
            Span::start(context, SpanKind::Consumer, format_args!("consume {}", name(message)));
        span.set("messaging.system", broker.system());
        span.set("messaging.operation.type", "process");
        span.set("messaging.destination.name", queue);
        span.set("messaging.message.id", message.id.as_deref().unwrap_or_default());
        Taken { delivery, span }
    }

    /// Does `work` for this message.
    pub fn go_on<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        self.span.context().scope(work)
    }
}
