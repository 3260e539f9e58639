//! Subscriptions: which events an actor applies. Consumers and the redrive of dead letters use
//! them, whichever the broker.

use std::any::Any;
use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use shop_persistence::InvalidValue;
use shop_persistence::events::ReceivedEvent;

use crate::{Error, Result};

/// The events of one queue, applied to one actor.
pub trait Subscription: Send + Sync + 'static {
    /// What the actor is sent for a valid event.
    type Update: Clone + Send + Sync + 'static;

    /// The queue, without the prefix.
    fn queue(&self) -> &'static str;

    /// Reads an event.
    ///
    /// # Errors
    /// Why it can never be applied: the reason of its dead letter.
    fn parse(&self, event: &ReceivedEvent<'_>) -> Result<Self::Update, InvalidValue>;

    /// Applies the updates in their order, in one transaction. Returns after the commit.
    ///
    /// # Errors
    /// Nothing is applied. [`Error::Unavailable`] and [`Error::Overloaded`] are temporary; after
    /// [`Error::Crashed`] one of the updates is suspected; others say why it cannot be applied.
    fn apply(&self, updates: Vec<Self::Update>) -> impl Future<Output = Result<()>> + Send;
}

/// A subscription of any type of update.
#[derive(Clone)]
pub struct AnySubscription(Arc<dyn Erased>);

/// An update of an [`AnySubscription`].
#[derive(Debug)]
pub struct AnyUpdate(Box<dyn Any + Send + Sync>);

impl AnySubscription {
    /// This subscription, in a form that can be listed with those of other updates.
    pub fn new(subscription: impl Subscription) -> AnySubscription {
        AnySubscription(Arc::new(subscription))
    }

    /// See [`Subscription::queue`].
    pub fn queue(&self) -> &'static str {
        self.0.queue()
    }

    /// See [`Subscription::parse`].
    ///
    /// # Errors
    /// Why the event can never be applied.
    pub fn parse(&self, event: &ReceivedEvent<'_>) -> Result<AnyUpdate, InvalidValue> {
        self.0.parse(event)
    }

    /// See [`Subscription::apply`]. The updates must be of this subscription.
    ///
    /// # Errors
    /// As [`Subscription::apply`].
    pub async fn apply(&self, updates: &[&AnyUpdate]) -> Result<()> {
        self.0.apply(updates).await
    }
}

impl Debug for AnySubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnySubscription").field(&self.queue()).finish()
    }
}

/// [`Subscription`] without the type of its updates.
trait Erased: Send + Sync {
    fn queue(&self) -> &'static str;
    fn parse(&self, event: &ReceivedEvent<'_>) -> Result<AnyUpdate, InvalidValue>;
    fn apply(
        &self,
        updates: &[&AnyUpdate],
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + '_>>;
}

impl<S: Subscription> Erased for S {
    fn queue(&self) -> &'static str {
        Subscription::queue(self)
    }

    fn parse(&self, event: &ReceivedEvent<'_>) -> Result<AnyUpdate, InvalidValue> {
        Ok(AnyUpdate(Box::new(Subscription::parse(self, event)?)))
    }

    fn apply(
        &self,
        updates: &[&AnyUpdate],
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + '_>> {
        let updates = updates.iter().map(|update| update.0.downcast_ref::<S::Update>().cloned());
        let updates: Option<Vec<S::Update>> = updates.collect();
        Box::pin(async move {
            let foreign = || Error::Internal("an update of another subscription".into());
            Subscription::apply(self, updates.ok_or_else(foreign)?).await
        })
    }
}
