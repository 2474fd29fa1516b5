//! The host around drivers, with the embedded journal behind it.

use crate::counter::{Ask, Counter, at, setup};
use penstock_actors::driver::Driver;
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::machine::Commit;
use penstock_actors::seam::{Acknowledgement, Outlet};
use penstock_actors::shell::clock::Clock;
use penstock_actors::shell::host::{Denied, HostRef, HostSetup, spawn};
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::id::Time;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

const DRIVERS: u16 = 3;

struct Effects(Sender<(u32, (u64, u64))>);

impl Outlet<Counter> for Effects {
    fn deliver(&mut self, effects: &mut Vec<(u32, (u64, u64))>) {
        for effect in effects.drain(..) {
            // A test that has seen enough no longer listens.
            let _ = self.0.send(effect);
        }
    }
}

/// The host's end of the journal's acknowledgements, to add some of one's own.
type Tap = Arc<Mutex<Option<Arc<dyn Fn(Vec<Acknowledgement>) + Send + Sync>>>>;

struct Running {
    host: HostRef<Counter>,
    ended: JoinHandle<()>,
    effects: Receiver<(u32, (u64, u64))>,
    tap: Tap,
}

async fn start(journal: &EmbeddedJournal) -> Running {
    let clock = Clock::start(Time(0));
    let recover = |number| {
        let setup = setup(number, 100, 10_000);
        Driver::recover_from(&mut journal.reader(), Counter::default, setup, clock.now())
    };
    let drivers: Vec<_> = (0..DRIVERS).map(|number| recover(number).unwrap()).collect();
    let open = journal.opener();
    let tap = Tap::default();
    let kept = tap.clone();
    let (to, effects) = channel();
    let setup = HostSetup {
        drivers,
        journal: Box::new(move |sink| {
            let sink: Arc<dyn Fn(Vec<Acknowledgement>) + Send + Sync> = sink.into();
            *kept.lock().unwrap() = Some(sink.clone());
            open(Box::new(move |acknowledged| sink(acknowledged)))
        }),
        outlet: Box::new(Effects(to)),
        clock,
    };
    let (host, ended) = spawn(None, setup, None).await.unwrap();
    Running { host, ended, effects, tap }
}

fn open(folder: &Path) -> EmbeddedJournal {
    EmbeddedJournal::open(folder, StoreLimits::default()).unwrap()
}

fn in_order(effects: impl Iterator<Item = (u32, (u64, u64))>, last: &mut [u64; 3]) {
    for (driver, (total, _)) in effects {
        assert_eq!(total, last[driver as usize] + 1, "effects of a driver leave in order");
        last[driver as usize] = total;
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let journal = open(folder.path());
        let Running { host, ended, effects, .. } = start(&journal).await;
        let counts = (0..300).map(|n| (n % 3, Ask::Count(Commit::Quorum))).collect();
        host.send(counts);
        let mut last = [0; 3];
        for seq in 101..=110 {
            assert_eq!(host.ask(1, Ask::Count(Commit::Log)).await, Ok(Some(Seq(seq))));
            in_order(effects.try_iter(), &mut last);
            assert_eq!(last[1], seq, "an effect leaves before the answer that tells of it");
        }
        assert_eq!(host.ask(2, Ask::Nothing).await, Ok(None));
        assert_eq!(host.ask(2, Ask::Impossible).await, Err(Denied::Refused("impossible")));
        let totals = |machines: &mut dyn Iterator<Item = &Counter>| {
            machines.map(|counter| counter.total).collect::<Vec<_>>()
        };
        assert_eq!(host.read(totals).await, Some(vec![100, 110, 100]));
        host.stop();
        ended.await.unwrap();
        in_order(effects.iter(), &mut last);
        assert_eq!(last, [100, 110, 100]);
        assert_eq!(host.ask(0, Ask::Nothing).await, Err(Denied::Ended));
    }
    let journal = open(folder.path());
    let Running { host, ended, .. } = start(&journal).await;
    let totals = host.read(|machines| machines.map(|counter| counter.total).sum::<u64>()).await;
    assert_eq!(totals, Some(310));
    assert_eq!(host.ask(0, Ask::Count(Commit::Quorum)).await, Ok(Some(Seq(101))));
    host.stop();
    ended.await.unwrap();
}

#[tokio::test]
async fn a_timer_rings_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let Running { host, ended, effects, .. } = start(&journal).await;
    assert_eq!(host.ask(0, Ask::Count(Commit::Quorum)).await, Ok(Some(Seq(1))));
    let rung = tokio::task::spawn_blocking(move || {
        effects.iter().map(|(_, (total, _))| total).find(|total| *total == 101)
    });
    assert_eq!(rung.await.unwrap(), Some(101));
    host.stop();
    ended.await.unwrap();
}

#[tokio::test]
async fn a_fenced_host_ends_and_leaves_its_askers_without_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let Running { host, ended, tap, .. } = start(&journal).await;
    assert_eq!(host.ask(0, Ask::Count(Commit::Log)).await, Ok(Some(Seq(1))));
    let sink = tap.lock().unwrap().clone().expect("the host has opened its journal");
    sink(vec![Acknowledgement::Fenced(at(0), Epoch(9))]);
    ended.await.unwrap();
    assert_eq!(host.ask(0, Ask::Nothing).await, Err(Denied::Ended));
    assert_eq!(host.read_uncommitted(|machines| machines.count()).await, None);
}
