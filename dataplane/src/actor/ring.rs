//! The two rings between a shard's thread and its actor: bounded, one writer and one reader each.
//!
//! The thread sleeps on its sockets, so what wakes it is an eventfd among them, written only when
//! it sleeps. The actor is a task, so what wakes it is a notification of the runtime.

use crate::shard::{ShardCounters, ShardInput, ShardOutput};
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Inputs that a shard's thread has not taken yet, at most.
const INPUTS_MAX: usize = 16_384;
/// Outputs that a shard's actor has not taken yet, at most.
const OUTPUTS_MAX: usize = 16_384;

/// The newest counters of a shard and its side.
#[derive(Clone, Debug, Default)]
pub struct ShardStatus {
    /// The shard's.
    pub shard: ShardCounters,
    /// Those of its ports, by name.
    pub ports: Vec<Vec<(&'static str, u64)>>,
}

/// What a shard's thread says.
pub enum FromThread {
    /// The shard's own words.
    Output(ShardOutput),
    /// Counters, now and then.
    Status(Box<ShardStatus>),
}

/// Wakes a thread that sleeps, and costs one atomic exchange when it does not.
pub(super) struct Wake {
    event: OwnedFd,
    sleeping: AtomicBool,
}

impl Wake {
    fn new() -> io::Result<Wake> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Wake { event, sleeping: AtomicBool::new(false) })
    }

    /// Called by the writer after it has written.
    pub(super) fn wake(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // It only fails when the counter is full, and then the reader is awake.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Called by the reader before it looks into the ring a last time and sleeps.
    pub(super) fn about_to_sleep(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
    }

    /// Called by the reader when it is awake again; `woken` when the eventfd was readable.
    pub(super) fn awake(&self, woken: bool) {
        self.sleeping.store(false, Ordering::SeqCst);
        if woken {
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The actor's end toward the thread.
pub(super) struct Inlet {
    producer: Producer<ShardInput>,
    wake: Arc<Wake>,
}

/// The thread's end of an [`Inlet`].
pub(super) struct InletEnd {
    pub(super) consumer: Consumer<ShardInput>,
    pub(super) wake: Arc<Wake>,
}

/// The actor's end from the thread.
pub(super) struct Outlet {
    consumer: Consumer<FromThread>,
}

/// The thread's end of an [`Outlet`].
pub(super) struct OutletEnd {
    producer: Producer<FromThread>,
    filled: Arc<Notify>,
}

/// Says when an [`Outlet`] has something.
pub(super) struct Ready(Arc<Notify>);

pub(super) fn inlet() -> io::Result<(Inlet, InletEnd)> {
    let (producer, consumer) = RingBuffer::new(INPUTS_MAX);
    let wake = Arc::new(Wake::new()?);
    Ok((Inlet { producer, wake: wake.clone() }, InletEnd { consumer, wake }))
}

pub(super) fn outlet() -> (Outlet, OutletEnd, Ready) {
    let (producer, consumer) = RingBuffer::new(OUTPUTS_MAX);
    let filled = Arc::new(Notify::new());
    (Outlet { consumer }, OutletEnd { producer, filled: filled.clone() }, Ready(filled))
}

impl Inlet {
    /// Moves as much of `waiting` as fits and wakes the thread.
    pub(super) fn push(&mut self, waiting: &mut VecDeque<ShardInput>) {
        while !self.producer.is_full() {
            let Some(input) = waiting.pop_front() else { break };
            self.producer.push(input).unwrap_or_else(|_| unreachable!("the ring had room"));
        }
        self.wake.wake();
    }

    pub(super) fn wake(&self) {
        self.wake.wake();
    }
}

impl Outlet {
    pub(super) fn pop(&mut self) -> Option<FromThread> {
        self.consumer.pop().ok()
    }
}

impl OutletEnd {
    /// Whether there is no room.
    pub(super) fn is_full(&self) -> bool {
        self.producer.is_full()
    }

    /// Puts one message; drops it when there is no room, which the caller has looked at.
    pub(super) fn push(&mut self, message: FromThread) {
        let _ = self.producer.push(message);
    }

    pub(super) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Whether the actor has let go of its end.
    pub(super) fn is_abandoned(&self) -> bool {
        self.producer.is_abandoned()
    }
}

impl Ready {
    /// Waits until the thread has put something since the last call.
    pub(super) async fn wait(&self) {
        self.0.notified().await;
    }
}
