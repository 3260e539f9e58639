//! Customers: the catalog and order nodes' copy of the auth node's users.

use serde_json::{Value, json};
use shop_persistence::customers::{self, Customer, UserUpdate};
use shop_persistence::events::{Event, ReceivedEvent, UserCreated, UserDeleted, UserUpdated};
use shop_persistence::users::UserId;
use shop_persistence::{Database, InvalidValue, Session};
use shop_runtime::{Actor, ActorContext, Addr, HandlerResult, respond};
use strum::IntoStaticStr;
use tokio::sync::broadcast;

use crate::subscriptions::{AnySubscription, Subscription};
use crate::{Reply, Result};

/// Messages of the customers actor.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Applies events of users.
    Apply(Vec<UserUpdate>, Reply<()>),
    /// Finds a customer. `None`: no event of this user has arrived; a deleted user is found.
    Find(UserId, Reply<Option<Customer>>),
}

/// The actor that maintains the copy.
#[derive(Debug)]
pub struct Customers {
    session: Session,
    changed: broadcast::Sender<UserId>,
}

impl Customers {
    /// The customers of this database. The ids of changed users go to `changed`, so that cached
    /// tokens of these users are evicted.
    pub fn new(database: &Database, changed: broadcast::Sender<UserId>) -> Customers {
        Customers { session: database.session(), changed }
    }

    async fn apply(&mut self, updates: Vec<UserUpdate>) -> Result<()> {
        let mut tx = self.session.begin().await?;
        let changed = customers::upsert(&mut tx, &updates).await?;
        tx.commit().await?;
        for id in changed {
            self.changed.send(id).ok(); // fails without a receiver
        }
        Ok(())
    }

    async fn find(&mut self, id: UserId) -> Result<Option<Customer>> {
        Ok(customers::find(self.session.connection().await?, id).await?)
    }
}

impl Actor for Customers {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Apply(updates, reply) => respond(reply, self.apply(updates).await),
            Msg::Find(id, reply) => respond(reply, self.find(id).await),
        }
    }
}

/// The events that customers actors apply. Each node has a queue of its own for them.
pub fn subscriptions(customers: &Addr<Msg>, queue: &'static str) -> Vec<AnySubscription> {
    vec![AnySubscription::new(UserEvents { customers: customers.clone(), queue })]
}

struct UserEvents {
    customers: Addr<Msg>,
    queue: &'static str,
}

impl Subscription for UserEvents {
    type Update = UserUpdate;

    fn queue(&self) -> &'static str {
        self.queue
    }

    fn parse(&self, event: &ReceivedEvent<'_>) -> Result<UserUpdate, InvalidValue> {
        let (id, user) = match event.name {
            UserCreated::NAME => {
                let UserCreated(user) = event.read()?;
                (user.id, Some(user))
            }
            UserUpdated::NAME => {
                let UserUpdated(user) = event.read()?;
                (user.id, Some(user))
            }
            UserDeleted::NAME => (event.read::<UserDeleted>()?.id, None),
            _ => return Err(event.unexpected()),
        };
        Ok(UserUpdate { id, version: event.version()?, user })
    }

    fn apply(&self, updates: Vec<UserUpdate>) -> impl Future<Output = Result<()>> + Send {
        self.customers.ask((), |reply| Msg::Apply(updates, reply))
    }
}
