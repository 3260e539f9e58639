//! The owner of customers: what the catalog and order nodes have heard of the auth node's users.

use serde_json::{Value, json};
use shop_persistence::customers::{self, Customer, UserUpdate};
use shop_persistence::users::UserId;
use shop_persistence::{Database, Result, Session};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;
use tokio::sync::broadcast;

use crate::Reply;

/// What the owner of customers may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Users signed up, changed or left.
    Apply(Vec<UserUpdate>, Reply<()>),
    /// Who is this, as far as this node has heard?
    Find(UserId, Reply<Option<Customer>>),
}

/// Owns customers.
#[derive(Debug)]
pub struct Customers {
    session: Session,
    changed: broadcast::Sender<UserId>,
}

impl Customers {
    /// An owner of the customers in this database, who says whose news it heard: a hint, for whoever has a
    /// verified token of theirs at hand.
    pub fn new(database: &Database, changed: broadcast::Sender<UserId>) -> Customers {
        Customers { session: database.session(), changed }
    }

    async fn recv(&mut self, news: Vec<UserUpdate>) -> Result<()> {
        let mut tx = self.session.begin().await?;
        let changed = customers::upsert(&mut tx, &news).await?;
        tx.commit().await?;
        for id in changed {
            self.changed.send(id).ok(); // nobody may be interested
        }
        Ok(())
    }

    async fn find(&mut self, id: UserId) -> Result<Option<Customer>> {
        customers::find(self.session.connection().await?, id).await
    }
}

impl Actor for Customers {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Apply(news, reply) => respond(reply, self.recv(news).await),
            Msg::Find(id, reply) => respond(reply, self.find(id).await),
        }
    }
}
