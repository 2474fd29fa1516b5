//! The thread that the tiers of a first packet share: shards' actors, slots and decisions.
//!
//! What opens a flow passes five mailboxes. On one thread a message costs no wake-up of another
//! core and a batch stays in that core's cache; the journal's thread and the shards' threads work
//! beside it. Everything that may take long (the API, the kernel's answers) runs elsewhere.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The thread; it ends when this is dropped, and its actors with it.
pub struct Tier {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Tier {
    /// Starts it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> io::Result<Tier> {
        let (stop, stopped) = oneshot::channel();
        let (started, handle) = mpsc::channel();
        let run = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            // Errors mean that the other end is gone, which is a stop as well.
            let _ = started.send(Ok(runtime.handle().clone()));
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name("penstock-flows".into()).spawn(run)?;
        let handle = handle.recv().map_err(io::Error::other)??;
        Ok(Tier { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Where to have something run.
    pub fn place(&self) -> Place {
        Place(self.handle.clone())
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the flows has panicked");
        }
    }
}

/// A way to a [`Tier`].
#[derive(Clone)]
pub struct Place(Handle);

impl Place {
    /// Runs `work` there and waits for what it returns: actors that it starts stay there.
    ///
    /// # Panics
    /// When `work` does, or the thread has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.0.spawn(work).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => panic!("the thread of the flows has ended: {error}"),
            },
        }
    }
}
