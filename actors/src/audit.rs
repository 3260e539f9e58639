//! The owner of the audit log: what administrators did with the actors of this node.

use serde_json::{Value, json};
use std::sync::Arc;

use shop_persistence::audit::{self, Deed, Entry};
use shop_persistence::lists::Part;
use shop_persistence::{Database, PgConnection, Result, Session};
use strum::IntoStaticStr;

use crate::idempotency::{Done, Once, change};
use crate::inspector::{Action, Probe};
use crate::{Handled, Me, Owner, Reply, answer};

/// What the owner of the audit log may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Somebody does this.
    Act(Box<Act>, Option<Once>, Reply<Done<Entry>>),
    /// Entries, the newest first.
    List(Part<i64>, Reply<Vec<Entry>>),
}

/// What somebody does with an actor.
#[derive(Debug)]
pub struct Act {
    /// As it is written down.
    pub deed: Deed,
    /// With whom.
    pub probe: Arc<Probe>,
    /// What.
    pub action: Action,
    /// Whether it could be done when it was asked for.
    pub allowed: Result<()>,
}

/// Owns the audit log.
#[derive(Debug)]
pub struct Audit {
    session: Session,
}

impl Audit {
    /// An owner of the audit log in this database.
    pub fn new(database: &Database) -> Audit {
        Audit { session: database.session() }
    }

    /// Writes it down, and only then has it done. A repetition does nothing.
    async fn act(&mut self, act: Act, once: Option<Once>) -> Result<Done<Entry>> {
        let Act { deed, probe, action, allowed } = act;
        let write = async |tx: &mut PgConnection| {
            allowed?;
            audit::insert(tx, &deed).await
        };
        let written = change(&mut self.session, once, write).await?;
        if let Done::Now(Entry { action: name, actor, username, reason, .. }) = &written {
            tracing::warn!(actor, action = name, by = username, reason, "an administrator acts");
            let steered = probe.steer(action, reason.clone());
            steered.inspect_err(|error| {
                tracing::warn!(actor, action = name, %error, "what was written down was not done");
            })?;
        }
        Ok(written)
    }

    async fn list(&mut self, part: Part<i64>) -> Result<Vec<Entry>> {
        audit::list(self.session.connection().await?, part).await
    }
}

impl Owner for Audit {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &Me<Msg>, message: Msg) -> Handled {
        match message {
            Msg::Act(act, once, reply) => answer(reply, self.act(*act, once).await),
            Msg::List(part, reply) => answer(reply, self.list(part).await),
        }
    }
}
