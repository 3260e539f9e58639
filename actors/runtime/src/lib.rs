//! The actor runtime: addresses, bounded mailboxes, actors, services, supervision, back-off, the registry of actors with
//! its metrics, failpoints, clock and trace context. It knows ractor and tokio, and nothing of a shop.

mod actor;
mod addr;
mod backoff;
mod clock;
mod error;
pub mod failpoint;
pub mod registry;
mod service;
mod supervisor;
pub mod trace;

pub use actor::{Actor, ActorContext, HandlerResult, respond, spawn_actor};
pub use addr::{Addr, Mailbox, Message, Reply};
pub use backoff::Backoff;
pub use clock::now;
pub use error::{Error, ReplyError, Result};
pub use failpoint::Failpoint;
pub use service::{Service, spawn_service};
pub use supervisor::{
    Child, GRACE, Msg as SupervisorMessage, Policy, RestartIntensity, Strategy, Supervisor,
};
pub use trace::{Span, SpanContext, SpanKind, TaskContext};
