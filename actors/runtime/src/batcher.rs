//! Group commit: collects the items of many messages into batches, each of which an actor commits in
//! one transaction.

use std::time::Duration;

use crate::actor::ActorContext;
use crate::mailbox::Message;

/// How large batches become and how long they wait.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// The maximum number of items in a batch. A batch of this size is committed at once.
    pub max_size: usize,
    /// The maximum target. A batch waits for as many items as the previous batch had, up to this
    /// number: beyond it, the fixed cost of a transaction is amortised.
    pub max_target: usize,
    /// How long the first item of a batch waits for the target.
    pub max_wait: Duration,
}

/// The message that a [`Batcher`] sends to its own actor. Pass it to [`Batcher::on_flush`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flush(Trigger);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    /// Everything that was in the mailbox when the batch became ready is in it now.
    Ready,
    /// The first item of the batch with this number has waited long enough.
    Deadline(u64),
}

/// Collects items into batches for the actor that owns it.
///
/// A batch is complete when it has the maximum size, or when all messages that were in the mailbox
/// as it became ready have been handled. It becomes ready at its *target* (the size of the previous
/// batch, up to a limit) or at its deadline. An idle actor therefore commits batches of one without
/// waiting, and under load the batches grow by themselves.
///
/// ```
/// # use std::time::Duration;
/// use shop_runtime::{Actor, ActorContext, BatchLimits, Batcher, Flush, HandlerResult, Reply, respond};
///
/// #[derive(strum::IntoStaticStr)]
/// enum Msg {
///     Append(String, Reply<usize>),
///     Flush(Flush),
/// }
///
/// struct Log {
///     lines: Vec<String>,
///     batch: Batcher<(String, Reply<usize>), Msg>,
/// }
///
/// impl Log {
///     fn new() -> Log {
///         let max_wait = Duration::from_millis(1);
///         let limits = BatchLimits { max_size: 128, max_target: 32, max_wait };
///         Log { lines: vec![], batch: Batcher::new(limits, Msg::Flush) }
///     }
///
///     fn commit(&mut self, batch: Vec<(String, Reply<usize>)>) -> HandlerResult {
///         for (line, reply) in batch {
///             self.lines.push(line); // one write for the whole batch, in a real log
///             respond(reply, Ok(self.lines.len()))?;
///         }
///         Ok(())
///     }
/// }
///
/// impl Actor for Log {
///     type Msg = Msg;
///
///     async fn handle(&mut self, context: &ActorContext<Msg>, message: Msg) -> HandlerResult {
///         let complete = match message {
///             Msg::Append(line, reply) => self.batch.push(context, (line, reply)),
///             Msg::Flush(flush) => self.batch.on_flush(context, flush),
///         };
///         complete.map_or(Ok(()), |batch| self.commit(batch))
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Batcher<T, M> {
    state: BatchState<T>,
    max_wait: Duration,
    flush: fn(Flush) -> M,
}

impl<T, M: Message> Batcher<T, M> {
    /// A batcher for the actor whose messages include `flush`.
    pub fn new(limits: BatchLimits, flush: fn(Flush) -> M) -> Batcher<T, M> {
        Batcher { state: BatchState::new(limits), max_wait: limits.max_wait, flush }
    }

    /// Adds an item. Returns the batch if it has the maximum size.
    pub fn push(&mut self, context: &ActorContext<M>, item: T) -> Option<Vec<T>> {
        match self.state.push(item) {
            Push::Full => return Some(self.state.take()),
            Push::Ready => context.tell((self.flush)(Flush(Trigger::Ready))),
            Push::First(batch) => {
                let flush = self.flush;
                let deadline = Flush(Trigger::Deadline(batch));
                context.tell_after(self.max_wait, move || flush(deadline));
            }
            Push::Waiting => {}
        }
        None
    }

    /// Adds an item that has waited already: the batch becomes ready.
    pub fn push_ready(&mut self, context: &ActorContext<M>, item: T) {
        self.state.items.push(item);
        if self.state.become_ready() {
            context.tell((self.flush)(Flush(Trigger::Ready)));
        }
    }

    /// Handles the message that the batcher sent to the actor. Returns the batch if it is complete.
    pub fn on_flush(&mut self, context: &ActorContext<M>, flush: Flush) -> Option<Vec<T>> {
        match flush.0 {
            Trigger::Ready => Some(self.state.take()),
            Trigger::Deadline(batch) => {
                if self.state.is_current(batch) && self.state.become_ready() {
                    context.tell((self.flush)(Flush(Trigger::Ready)));
                }
                None
            }
        }
    }

    /// Takes the items that wait, for an actor that stops.
    pub fn take(&mut self) -> Vec<T> {
        self.state.take()
    }

    /// The number of items that wait.
    pub fn len(&self) -> usize {
        self.state.items.len()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.state.items.is_empty()
    }
}

/// The batch that is being collected, without its timers.
#[derive(Debug)]
struct BatchState<T> {
    items: Vec<T>,
    limits: BatchLimits,
    /// The size of the previous batch.
    previous: usize,
    /// The number of the batch.
    number: u64,
    /// Whether a flush is in the mailbox.
    ready: bool,
}

/// What a pushed item changes.
#[derive(Debug, PartialEq, Eq)]
enum Push {
    /// The batch has the maximum size.
    Full,
    /// The batch has become ready.
    Ready,
    /// The batch with this number has its first item and waits for its target.
    First(u64),
    /// The batch waits.
    Waiting,
}

impl<T> BatchState<T> {
    fn new(limits: BatchLimits) -> BatchState<T> {
        BatchState { items: vec![], limits, previous: 0, number: 0, ready: false }
    }

    fn push(&mut self, item: T) -> Push {
        self.items.push(item);
        let size = self.items.len();
        if size >= self.limits.max_size {
            return Push::Full;
        }
        if size >= self.previous.min(self.limits.max_target) {
            return if self.become_ready() { Push::Ready } else { Push::Waiting };
        }
        if size == 1 { Push::First(self.number) } else { Push::Waiting }
    }

    /// Returns whether the batch was not ready before.
    fn become_ready(&mut self) -> bool {
        !std::mem::replace(&mut self.ready, true)
    }

    fn is_current(&self, number: u64) -> bool {
        self.number == number
    }

    fn take(&mut self) -> Vec<T> {
        self.ready = false;
        self.number += 1;
        self.previous = self.items.len();
        std::mem::take(&mut self.items)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(max_size: usize, max_target: usize) -> BatchLimits {
        BatchLimits { max_size, max_target, max_wait: Duration::from_millis(1) }
    }

    #[test]
    fn an_idle_batcher_is_ready_with_the_first_item() {
        let mut state = BatchState::new(limits(128, 32));
        assert_eq!(state.push("a"), Push::Ready);
        assert_eq!(state.push("b"), Push::Waiting);
        assert_eq!(state.take(), ["a", "b"]);
    }

    #[test]
    fn a_batch_waits_for_the_size_of_the_previous_one_up_to_the_maximum_target() {
        let mut state = BatchState::new(limits(128, 3));
        for item in 0..5 {
            state.push(item);
        }
        state.take();
        assert_eq!(state.push(5), Push::First(1));
        assert_eq!(state.push(6), Push::Waiting);
        assert_eq!(state.push(7), Push::Ready, "the target is 3, not 5");
    }

    #[test]
    fn the_deadline_of_an_earlier_batch_has_no_effect() {
        let mut state = BatchState::new(limits(128, 32));
        for item in 0..2 {
            state.push(item);
        }
        state.take();
        let Push::First(first) = state.push(2) else { panic!("it waits for a second item") };
        state.take();
        assert!(!state.is_current(first));
    }

    proptest! {
        /// Whatever the order of pushes and deadlines: no batch exceeds the maximum, every item is in one
        /// batch, in order, and waiting items always have a flush or a deadline ahead of them.
        #[test]
        fn every_item_is_in_one_batch_and_none_waits_without_a_trigger(
            steps in prop::collection::vec(0..4_u8, 1..200),
            max_size in 1..10_usize,
            max_target in 1..10_usize,
        ) {
            let mut state = BatchState::new(limits(max_size, max_target));
            let (mut pushed, mut committed) = (0, vec![]);
            let mut deadline = None;
            let mut commit = |state: &mut BatchState<u32>| {
                let batch = state.take();
                assert!(batch.len() <= max_size);
                committed.extend(batch);
            };
            for step in steps {
                match step {
                    0 if state.ready => commit(&mut state),
                    1 => {
                        if let Some(batch) = deadline && state.is_current(batch) {
                            state.become_ready();
                        }
                    }
                    _ => {
                        let push = state.push(pushed);
                        pushed += 1;
                        match push {
                            Push::Full => commit(&mut state),
                            Push::First(batch) => deadline = Some(batch),
                            Push::Ready | Push::Waiting => {}
                        }
                    }
                }
                let has_trigger = state.ready || deadline.is_some_and(|it| state.is_current(it));
                prop_assert!(state.items.is_empty() || has_trigger);
            }
            commit(&mut state);
            prop_assert_eq!(committed, (0..pushed).collect::<Vec<_>>());
        }
    }
}
