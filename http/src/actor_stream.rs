//! The stream of actors' changes, as server-sent events.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use axum::http::{HeaderName, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use shop_runtime::registry::ActorRegistry;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;

/// The seconds between two verifications of the client's token.
const VERIFY_INTERVAL: u64 = 10;

/// A client's stream of changes, one event a second.
pub struct ActorStream {
    registry: ActorRegistry,
    authenticator: Authenticator,
    token: String,
    ticks: Interval,
    tick: u64,
    hasher: RandomState,
    /// The hash of what was sent last, by actor path.
    sent: HashMap<String, u64>,
    _permit: OwnedSemaphorePermit,
}

impl ActorStream {
    /// The stream of an administrator with this token. It holds the permit until it ends.
    pub fn new(
        registry: ActorRegistry,
        authenticator: Authenticator,
        token: String,
        permit: OwnedSemaphorePermit,
    ) -> ActorStream {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (hasher, sent) = (RandomState::new(), HashMap::new());
        ActorStream {
            registry,
            authenticator,
            token,
            ticks,
            tick: 0,
            hasher,
            sent,
            _permit: permit,
        }
    }

    /// The response, which ends when the server is `closing`. Its headers keep proxies from
    /// buffering the events.
    pub fn into_response(self, closing: CancellationToken) -> Response {
        let events = stream::unfold(self, move |mut stream| {
            let closing = closing.clone();
            async move {
                let event = closing.run_until_cancelled(stream.next()).await.flatten()?;
                Some((Ok::<_, Infallible>(event), stream))
            }
        });
        let no_buffering = (HeaderName::from_static("x-accel-buffering"), "no");
        let headers = [(header::CACHE_CONTROL, "no-store"), no_buffering];
        (headers, Sse::new(events)).into_response()
    }

    /// The changes of the next second; `None` once the client is no longer an administrator.
    async fn next(&mut self) -> Option<Event> {
        self.ticks.tick().await;
        self.tick += 1;
        if self.tick.is_multiple_of(VERIFY_INTERVAL)
            && !self.authenticator.is_still_admin(&self.token).await
        {
            return None;
        }
        let mut changed = vec![];
        for actor in self.registry.actors() {
            let text = serde_json::to_string(&actor).ok()?;
            let hash = self.hasher.hash_one(&text);
            if self.sent.insert(actor.path, hash) != Some(hash) {
                changed.push(text);
            }
        }
        if changed.is_empty() {
            return Some(Event::default().comment("no changes"));
        }
        Some(Event::default().event("actors").data(format!("[{}]", changed.join(","))))
    }
}
