//! The owner of the audit log: what administrators did with the actors of this node.

use serde_json::{Value, json};
use std::sync::Arc;

use shop_persistence::audit::{self, AdminAction, AuditEntry};
use shop_persistence::pages::PageRequest;
use shop_persistence::{Database, PgConnection, Result, Session};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;

use crate::Reply;
use crate::idempotency::{IdempotencyKey, Replayable, change};
use shop_runtime::registry::{Action, ActorMetrics};

/// What the owner of the audit log may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Somebody does this.
    RecordAndApply(Box<RecordAndApply>, Option<IdempotencyKey>, Reply<Replayable<AuditEntry>>),
    /// Entries, the newest first.
    List(PageRequest<i64>, Reply<Vec<AuditEntry>>),
}

/// What somebody does with an actor.
#[derive(Debug)]
pub struct RecordAndApply {
    /// As it is written down.
    pub admin_action: AdminAction,
    /// With whom.
    pub actor_metrics: Arc<ActorMetrics>,
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
    async fn act(
        &mut self,
        act: RecordAndApply,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<AuditEntry>> {
        let RecordAndApply { admin_action, actor_metrics, action, allowed } = act;
        let write = async |tx: &mut PgConnection| {
            allowed?;
            audit::insert(tx, &admin_action).await
        };
        let written = change(&mut self.session, key, write).await?;
        if let Replayable::Now(AuditEntry { action: name, actor, username, reason, .. }) = &written
        {
            tracing::warn!(actor, action = name, by = username, reason, "an administrator acts");
            let steered = actor_metrics.control(action, reason.clone());
            steered.inspect_err(|error| {
                tracing::warn!(actor, action = name, %error, "what was written down was not done");
            })?;
        }
        Ok(written)
    }

    async fn list(&mut self, part: PageRequest<i64>) -> Result<Vec<AuditEntry>> {
        audit::list(self.session.connection().await?, part).await
    }
}

impl Actor for Audit {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::RecordAndApply(act, key, reply) => respond(reply, self.act(*act, key).await),
            Msg::List(part, reply) => respond(reply, self.list(part).await),
        }
    }
}
