//! Things on their way: by the time of their arrival, and among those of one time by the order of
//! their sending. Order is kept per lane, unless one is let fall behind.

use penstock_event_schema::id::Time;
use std::collections::BTreeMap;

/// See the module. `L` names a lane, such as a pair of sender and receiver.
pub struct Queue<L, T> {
    waiting: BTreeMap<(Time, u64), T>,
    last: BTreeMap<L, Time>,
    sent: u64,
}

impl<L: Ord, T> Queue<L, T> {
    /// Nothing is on its way.
    pub fn new() -> Queue<L, T> {
        Queue { waiting: BTreeMap::new(), last: BTreeMap::new(), sent: 0 }
    }

    /// Sends by a lane; arrives at `at`, or when the one before it in the lane arrives. Says when.
    pub fn send(&mut self, lane: L, at: Time, thing: T) -> Time {
        let last = self.last.entry(lane).or_default();
        *last = at.max(*last);
        let at = *last;
        self.send_apart(at, thing);
        at
    }

    /// Sends beside all lanes: arrives at `at`.
    pub fn send_apart(&mut self, at: Time, thing: T) {
        self.sent += 1;
        self.waiting.insert((at, self.sent), thing);
    }

    /// When the next one arrives.
    pub fn next_timeout(&self) -> Option<Time> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next one that has arrived at `now`.
    pub fn pop(&mut self, now: Time) -> Option<T> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// How many are on their way.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<L: Ord, T> Default for Queue<L, T> {
    fn default() -> Queue<L, T> {
        Queue::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_keep_their_order_and_others_do_not_wait() {
        let mut queue = Queue::new();
        queue.send('a', Time(5), 1);
        queue.send('a', Time(3), 2);
        queue.send('b', Time(3), 3);
        queue.send_apart(Time(4), 4);
        assert_eq!((queue.next_timeout(), queue.pop(Time(2))), (Some(Time(3)), None));
        let order: Vec<i32> = std::iter::from_fn(|| queue.pop(Time(9))).collect();
        assert_eq!(order, [3, 4, 1, 2]);
    }
}
