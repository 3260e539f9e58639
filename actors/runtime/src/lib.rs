#![doc = include_str!("../README.md")]

mod actor;
mod addr;
mod backoff;
mod batcher;
mod clock;
mod error;
pub mod failpoint;
mod mailbox;
pub mod registry;
mod sampler;
mod service;
mod supervisor;
pub mod trace;
mod worker;

pub use actor::{Actor, ActorContext, HandlerError, HandlerResult, respond};
pub use addr::{Addr, Reply};
pub use backoff::Backoff;
pub use batcher::{BatchLimits, Batcher, Flush};
pub use clock::now;
pub use error::{Error, ReplyError, Result};
pub use failpoint::Failpoint;
pub use mailbox::{Mailbox, Message};
pub use registry::ActorRegistry;
pub use sampler::Sampler;
pub use service::Service;
pub use supervisor::{Child, GRACE, RestartIntensity, RestartPolicy, Root, Strategy};
pub use trace::{Span, SpanContext, SpanKind, TaskContext};
