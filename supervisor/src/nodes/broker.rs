//! The branch of a node that talks to the broker. A child that fails takes those started after it
//! along, because they use its connection.

use shop_actors::subscriptions::AnySubscription;
use shop_messaging::{Connection, Consumer, DeadLetterConsumer, PREFETCH, Relay, WINDOW};
use shop_runtime::registry::{ActorKind, ActorRegistry};
use shop_runtime::{Child, GRACE, Service, Strategy};

use super::NodeContext;
use super::context::{Common, flatten};

impl NodeContext {
    /// The broker connection, the relay, and a consumer and a dead-letter consumer per subscription.
    pub fn broker(&self, common: &Common) -> Child {
        let branch = Branch(self.actors.registry.branch("broker"));
        let connection = common.connection.clone();
        let relay = Relay {
            database: self.actors.database.clone(),
            connection: connection.clone(),
            metrics: self.metrics.clone(),
        };
        let consumers: Vec<_> = common
            .subscriptions
            .iter()
            .map(|subscription| self.consumer(subscription, &connection))
            .collect();
        let dead_letter_consumers: Vec<_> = common
            .subscriptions
            .iter()
            .map(|subscription| DeadLetterConsumer {
                queue: subscription.queue(),
                letters: common.letters.clone(),
                connection: connection.clone(),
            })
            .collect();
        let registry = branch.0.clone();
        let children = move || {
            let consumer = |consumer: &Consumer| {
                let capacity = Some(usize::from(consumer.prefetch));
                branch.service(
                    &format!("consumer/{}", consumer.subscription.queue()),
                    capacity,
                    consumer,
                )
            };
            let dead_letter_consumer = |consumer: &DeadLetterConsumer| {
                let name = format!("dead_letter_consumer/{}", consumer.queue);
                branch.service(&name, Some(PREFETCH.into()), consumer)
            };
            Ok(flatten([
                vec![branch.service("connection", None, &connection)],
                vec![branch.service("relay", Some(WINDOW), &relay)],
                dead_letter_consumers.iter().map(dead_letter_consumer).collect(),
                consumers.iter().map(consumer).collect(),
            ]))
        };
        Child::supervisor(&registry, Strategy::RestForOne, self.policy, children)
    }

    fn consumer(&self, subscription: &AnySubscription, connection: &Connection) -> Consumer {
        Consumer {
            subscription: subscription.clone(),
            connection: connection.clone(),
            prefetch: self.prefetch,
            max_attempts: self.max_attempts,
            metrics: self.metrics.clone(),
        }
    }
}

/// The branch of the actor tree that holds the broker's services.
struct Branch(ActorRegistry);

impl Branch {
    fn service<S: Service + Clone + Sync>(
        &self,
        name: &str,
        capacity: Option<usize>,
        service: &S,
    ) -> Child {
        let metrics = self.0.branch(name).actor_metrics(ActorKind::Service, capacity, 1);
        Child::service(&metrics, GRACE, service.clone())
    }
}
