//! Spans of publishing and consuming an event. Both belong to the trace that caused the event.

use shop_persistence::outbox::Waiting;
use shop_runtime::{Span, SpanKind};

use crate::{Broker, Delivery, topology};

/// Starts the span of publishing an event. It ends when the broker has confirmed the event.
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

/// A delivery and the span of processing it, from the delivery to the acknowledgement.
#[derive(Debug)]
pub struct TracedDelivery {
    pub delivery: Delivery,
    pub span: Span,
}

impl TracedDelivery {
    /// Continues the message's trace, or starts one.
    pub fn new(delivery: Delivery, queue: &str, broker: &Broker) -> TracedDelivery {
        let message = &delivery.message;
        let context =
            message.traceparent.as_deref().and_then(|traceparent| traceparent.parse().ok());
        let name = format_args!("consume {}", message.event().name);
        let mut span = Span::start(context, SpanKind::Consumer, name);
        span.set("messaging.system", broker.system());
        span.set("messaging.operation.type", "process");
        span.set("messaging.destination.name", queue);
        span.set("messaging.message.id", message.id.as_deref().unwrap_or_default());
        TracedDelivery { delivery, span }
    }

    /// Runs `work` in this span.
    pub fn in_scope<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        self.span.context().scope(work)
    }
}
