//! The audit log: records administrators' actions on actors, and then carries them out.

use std::sync::Arc;

use serde_json::{Value, json};
use shop_persistence::audit::{self, AdminAction, AuditEntry};
use shop_persistence::pages::PageRequest;
use shop_persistence::{Database, PgConnection, Session};
use shop_runtime::registry::{ActorMetrics, ControlAction};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;

use crate::idempotency::{IdempotencyKey, Replayable, change};
use crate::{Reply, Result};

/// Messages of the audit log.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Records an action and carries it out.
    RecordAndApply(Box<RecordAndApply>, Option<IdempotencyKey>, Reply<Replayable<AuditEntry>>),
    /// Lists entries, newest first.
    List(PageRequest<i64>, Reply<Vec<AuditEntry>>),
}

/// An administrator's action on an actor.
#[derive(Debug)]
pub struct RecordAndApply {
    /// The entry of the audit log.
    pub admin_action: AdminAction,
    /// The actor.
    pub actor_metrics: Arc<ActorMetrics>,
    /// The action.
    pub action: ControlAction,
    /// Whether the actor's state allowed the action when it was requested.
    pub allowed: Result<()>,
}

/// The actor that writes the audit log.
#[derive(Debug)]
pub struct Audit {
    session: Session,
}

impl Audit {
    /// The audit log of this database.
    pub fn new(database: &Database) -> Audit {
        Audit { session: database.session() }
    }

    /// Commits the entry before the action runs, so that no action is missing from the log. A repeated
    /// request does nothing.
    async fn record_and_apply(
        &mut self,
        request: RecordAndApply,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<AuditEntry>> {
        let RecordAndApply { admin_action, actor_metrics, action, allowed } = request;
        let write = async |tx: &mut PgConnection| {
            allowed?;
            Ok(audit::insert(tx, &admin_action).await?)
        };
        let recorded = change(&mut self.session, key, write).await?;
        if let Replayable::New(AuditEntry { action: name, actor, username, reason, .. }) = &recorded
        {
            tracing::warn!(
                actor,
                action = name,
                by = username,
                reason,
                "administrator controls an actor"
            );
            let applied = actor_metrics.control(action, reason.clone());
            applied.inspect_err(|error| {
                tracing::warn!(actor, action = name, %error, "audited action failed");
            })?;
        }
        Ok(recorded)
    }

    async fn list(&mut self, page: PageRequest<i64>) -> Result<Vec<AuditEntry>> {
        Ok(audit::list(self.session.connection().await?, page).await?)
    }
}

impl Actor for Audit {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::RecordAndApply(request, key, reply) => {
                respond(reply, self.record_and_apply(*request, key).await)
            }
            Msg::List(page, reply) => respond(reply, self.list(page).await),
        }
    }
}
