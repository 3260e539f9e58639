//! Situations that a change can meet besides plain requests: each leads to failpoints of its own.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use shop_messaging::Message;
use shop_supervisor::Node;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Scenario, registration};
use crate::operation::Operation;
use crate::oracle::{equal, number};

/// Duration of a disruption, unless the failpoint is reached earlier.
const DURATION: Duration = Duration::from_secs(3);

/// Number of user events that wait together for the order node.
const BACKLOG: i64 = 3;

/// What happens to the shop, in the order in which it happens.
#[derive(Clone, Copy, Debug)]
pub enum Disruption {
    /// None: the events of the requests arrive.
    Convergence,
    /// A message that is not JSON.
    MalformedMessage,
    /// A message that crashes its actor.
    CrashingMessage,
    /// User events that arrive together.
    Backlog,
    /// The order node rebuilds its replicated tables.
    Resync,
    /// All connections to the broker break.
    BrokerOutage,
    /// Another replica holds the relay's lease.
    LostLease,
    /// The order node's database refuses connections.
    DatabaseOutage,
    /// None: periodic work continues.
    Pause,
}

impl Disruption {
    pub const ALL: [Disruption; 9] = [
        Disruption::Convergence,
        Disruption::MalformedMessage,
        Disruption::CrashingMessage,
        Disruption::Backlog,
        Disruption::Resync,
        Disruption::BrokerOutage,
        Disruption::LostLease,
        Disruption::DatabaseOutage,
        Disruption::Pause,
    ];
}

impl Scenario {
    /// Causes a disruption and waits until its effects are over. `order` places an order.
    pub(super) async fn cause(
        &mut self,
        disruption: Disruption,
        order: &Operation,
    ) -> anyhow::Result<()> {
        match disruption {
            Disruption::Convergence => self.until_converged().await,
            Disruption::MalformedMessage => self.publish_invalid("not json").await,
            Disruption::CrashingMessage => self.publish_crashing().await,
            Disruption::Backlog => self.hold_events_back().await,
            Disruption::Resync => self.resync().await,
            Disruption::BrokerOutage => self.interrupt_broker().await,
            Disruption::LostLease => self.hold_lease(order).await,
            Disruption::DatabaseOutage => self.interrupt_database().await,
            Disruption::Pause => {
                self.wait_until_reached().await;
                Ok(())
            }
        }
    }

    /// Publishes a message that the order node can never apply, and waits until it is
    /// dead-lettered.
    async fn publish_invalid(&mut self, body: &str) -> anyhow::Result<()> {
        let message = Message {
            routing_key: "order.users".into(),
            id: Some(Uuid::new_v4().to_string()),
            kind: Some("user_created".into()),
            version: Some(1),
            body: body.into(),
            ..Message::default()
        };
        self.publisher.publish(self.visits, message).await?;
        self.publisher.confirmed().await?;
        self.dead_letters += 1;
        self.until_dead_lettered().await
    }

    /// Publishes a message whose row a trigger rejects. The actor does not expect that error and
    /// panics on every attempt.
    async fn publish_crashing(&mut self) -> anyhow::Result<()> {
        const CREATE_TRIGGER: &str = "
            create or replace function reject() returns trigger language plpgsql as
                $$ begin raise 'rejected by the test'; end $$;
            create trigger rejects before insert on customers for each row
                when (new.username = 'rejected') execute function reject()";
        sqlx::raw_sql(CREATE_TRIGGER).execute(&mut self.oracle.order).await?;
        let id = Uuid::new_v4();
        let user =
            json!({"id": id, "username": "rejected", "email": "r@example.com", "role": "USER"});
        let dead_lettered = self.publish_invalid(&user.to_string()).await;
        self.restart_if_ended().await?;
        self.until_dead_lettered().await?;
        let drop_trigger = "drop trigger rejects on customers";
        sqlx::raw_sql(drop_trigger).execute(&mut self.oracle.order).await?;
        dead_lettered
    }

    /// Locks the order node's customers while users register, so that their events wait behind the
    /// first one and are then applied as a batch.
    async fn hold_events_back(&mut self) -> anyhow::Result<()> {
        let lock = "begin; lock table customers in exclusive mode";
        sqlx::raw_sql(lock).execute(&mut self.oracle.order).await?;
        let registrations: Vec<_> = (1..=BACKLOG).map(|number| self.register(number)).collect();
        let mut outcome = Ok(());
        for operation in &registrations {
            outcome = outcome.and(self.run(operation).await);
        }
        let published = self
            .until(async |oracle| {
                let waiting = number(&mut oracle.auth, "select count(*) from outbox").await?;
                Ok(equal("events in the outbox", waiting, 0))
            })
            .await;
        sqlx::raw_sql("commit").execute(&mut self.oracle.order).await?;
        outcome.and(published)?;
        self.restart_if_ended().await?;
        for operation in &registrations {
            self.run(operation).await?;
        }
        self.acknowledged.users += BACKLOG;
        self.until_converged().await
    }

    /// Makes the order node rebuild its replicated tables.
    async fn resync(&mut self) -> anyhow::Result<()> {
        let request = "insert into resyncs default values";
        sqlx::raw_sql(request).execute(&mut self.oracle.order).await?;
        self.until(async |oracle| {
            let pending = "select count(*) from resyncs where done_at is null";
            Ok(equal("pending resyncs", number(&mut oracle.order, pending).await?, 0))
        })
        .await
    }

    /// Resets every connection to the broker.
    async fn interrupt_broker(&mut self) -> anyhow::Result<()> {
        self.lost_broker = true;
        self.broker_proxy.cut(Duration::from_millis(200)).await;
        self.until_converged().await
    }

    /// Holds the relay's lease as another replica would, while an order is committed here.
    async fn hold_lease(&mut self, order: &Operation) -> anyhow::Result<()> {
        self.acquire_lease().await?;
        let order = Operation { key: Some(Uuid::new_v4().to_string()), ..order.clone() };
        let outcome = self.run(&order).await;
        self.wait_until_reached().await;
        self.release_lease().await?;
        outcome?;
        self.restart_if_ended().await?;
        self.run(&order).await?;
        self.acknowledged.orders += 1;
        self.until_converged().await
    }

    async fn acquire_lease(&mut self) -> anyhow::Result<()> {
        const END_HOLDER: &str = "
            select pg_terminate_backend(pid) from pg_locks
            where locktype = 'advisory' and pid <> pg_backend_pid()
              and database = (select oid from pg_database where datname = current_database())";
        const ACQUIRE: &str = "select pg_try_advisory_lock(hashtext('shop.outbox'))";
        let database = &mut self.oracle.order;
        loop {
            sqlx::raw_sql(END_HOLDER).execute(&mut *database).await?;
            if sqlx::query_scalar(ACQUIRE).fetch_one(&mut *database).await? {
                return Ok(());
            }
        }
    }

    async fn release_lease(&mut self) -> anyhow::Result<()> {
        let release = "select pg_advisory_unlock_all()";
        sqlx::raw_sql(release).execute(&mut self.oracle.order).await?;
        Ok(())
    }

    /// Makes the order node's database refuse connections while an event for it is published.
    async fn interrupt_database(&mut self) -> anyhow::Result<()> {
        let name = format!("{}order", self.settings.prefix);
        let allow =
            |allowed: bool| format!("alter database \"{name}\" allow_connections {allowed}");
        let own_pid: i32 =
            sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut self.oracle.order).await?;
        let terminate = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = '{name}' and pid <> {own_pid}"
        );
        for statement in [allow(false), terminate] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut self.maintenance).await?;
        }
        let registration = self.register(0);
        let outcome = self.run(&registration).await;
        self.wait_until_reached().await;
        sqlx::raw_sql(AssertSqlSafe(allow(true))).execute(&mut self.maintenance).await?;
        outcome?;
        self.restart_if_ended().await?;
        self.run(&registration).await?;
        self.acknowledged.users += 1;
        self.until_converged().await
    }

    /// Stops the process gracefully. The lease is held meanwhile, so that an event is left to
    /// relay.
    pub(super) async fn stop_gracefully(&mut self, order: &Operation) -> anyhow::Result<()> {
        self.acquire_lease().await?;
        let order = Operation { key: Some(Uuid::new_v4().to_string()), ..order.clone() };
        self.run(&order).await?;
        self.acknowledged.orders += 1;
        self.reached = self.shop.stop().await?;
        self.release_lease().await
    }

    /// Registers another user of this visit.
    fn register(&self, number: i64) -> Operation {
        let name = format!("late-{}-{number}", self.visits);
        Operation {
            client: self.admin.clone(),
            body: registration(&name),
            key: Some(name),
            method: Method::POST,
            node: Node::Auth,
            path: "/api/v1/auth/register".into(),
            status: 201,
        }
    }

    /// Waits until the failpoint is reached, for at most [`DURATION`].
    async fn wait_until_reached(&mut self) {
        let since = Instant::now();
        while !self.has_reached().await && since.elapsed() < DURATION {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
