//! Recovers drivers from the journal and starts the hosts around them.

use super::tier::Place;
use super::wiring::{DecisionOutlet, NetworkOutlet, SlotOutlet, Wiring};
use penstock_actors::decision::{self, Decision, DecisionSetup};
use penstock_actors::driver::{Driver, DriverLimits, DriverSetup, Input};
use penstock_actors::flow::{Slot, SlotLimits, SlotSetup};
use penstock_actors::journal::archive::Archive;
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::journal::none::NoJournal;
use penstock_actors::machine::Machine;
use penstock_actors::network::{Catalog, Command, Limits, Networks};
use penstock_actors::recovery::{RecoveryError, in_parallel};
use penstock_actors::seam::{Journal as _, JournalError, Outlet, Position};
use penstock_actors::shell::clock::Clock;
use penstock_actors::shell::host::{HostSetup, spawn};
use penstock_event_schema::flow::SlotHash;
use penstock_event_schema::id::{DecisionNodeId, DirectiveId, SlotId, Time};
use penstock_event_schema::message::summary::{Cut, CutRequest};
use penstock_event_schema::topic::{Topic, TopicPartition};
use ractor::{ActorCell, SpawnErr};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// What all hosts of a node are started with.
#[derive(Clone)]
pub struct Hosts {
    /// The node's name.
    pub name: String,
    /// The node's journal.
    pub journal: Arc<EmbeddedJournal>,
    /// Who is where.
    pub wiring: Arc<Wiring>,
    /// Where slots and decisions run.
    pub tier: Place,
    /// The keyed hash.
    pub hash: SlotHash,
    /// The node's clock.
    pub clock: Clock,
    /// Random bits.
    pub seed: u64,
}

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its records do not make a state.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The actor did not start.
    #[error("a host did not start: {0}")]
    Spawn(#[from] SpawnErr),
}

/// A cut of all that a slot holds: what a decision node must know at its start.
pub fn first_cut(slot: &Slot) -> Cut {
    slot.cut(&CutRequest { node: DecisionNodeId(0), ask: 0, from: None })
}

const NETWORKS: TopicPartition = TopicPartition { topic: Topic::Network, number: 0 };

const fn slot(number: u16) -> TopicPartition {
    TopicPartition { topic: Topic::Flow, number }
}

/// Who writes a topic partition.
#[derive(Clone, Copy, Debug)]
pub enum Writer {
    /// The objects.
    Networks,
    /// A slot, by number.
    Slot(u16),
}

impl Writer {
    /// Where it writes.
    pub fn at(self) -> TopicPartition {
        match self {
            Writer::Networks => NETWORKS,
            Writer::Slot(number) => slot(number),
        }
    }
}

/// The latest time in the journal: the node's clock must not begin before it.
///
/// # Errors
/// The journal cannot be read.
pub fn last_time(journal: &EmbeddedJournal, slots: u16) -> Result<Time, JournalError> {
    let reader = journal.reader();
    let mut latest = reader.last(NETWORKS)?.time;
    for number in 0..slots {
        latest = latest.max(reader.last(slot(number))?.time);
    }
    Ok(latest)
}

impl Hosts {
    fn setup(&self, at: TopicPartition) -> DriverSetup {
        let place = u64::from(at.topic.number()) << 16 | u64::from(at.number);
        DriverSetup {
            at,
            source: self.name.clone(),
            seed: self.seed.wrapping_add(place),
            limits: DriverLimits::default(),
        }
    }

    fn recover<M: Machine>(
        &self,
        fresh: impl Fn() -> M,
        at: TopicPartition,
    ) -> Result<Driver<M>, StartError> {
        let mut reader = self.journal.reader();
        Ok(Driver::recover_from(&mut reader, fresh, self.setup(at), self.clock.now())?)
    }

    fn host<M: Machine>(
        &self,
        drivers: Vec<Driver<M>>,
        outlet: impl Outlet<M> + 'static,
    ) -> HostSetup<M> {
        let journal = self.journal.clone();
        HostSetup {
            drivers,
            journal: Box::new(move |sink| Box::new(journal.writer(sink))),
            outlet: Box::new(outlet),
            clock: self.clock,
        }
    }

    /// Starts the host of objects; `addresses` are the kernel's.
    ///
    /// # Errors
    /// Its records do not make a state.
    pub async fn networks(
        &self,
        addresses: Vec<IpAddr>,
        supervisor: ActorCell,
    ) -> Result<Catalog, StartError> {
        let mut driver = self.recover(|| Networks::new(Limits::default()), NETWORKS)?;
        let command = Command::NodeAddresses(addresses);
        driver.handle(Input::Command { command, reply: None }, self.clock.now());
        let catalog = driver.machine().catalog().clone();
        let setup = self.host(vec![driver], NetworkOutlet(self.wiring.clone()));
        let (host, _) = spawn(None, setup, Some(supervisor)).await?;
        self.wiring.set_networks(host);
        Ok(catalog)
    }

    /// Everybody who writes.
    pub fn places(&self) -> impl Iterator<Item = Writer> + use<> {
        std::iter::once(Writer::Networks).chain((0..self.hash.slots()).map(Writer::Slot))
    }

    /// Makes a snapshot of what a writer has recorded; false when there is nothing new.
    ///
    /// # Errors
    /// Its records do not make a state, or the store cannot be written.
    pub fn snapshot(&self, archive: &Archive, of: Writer) -> Result<bool, RecoveryError> {
        let made = match of {
            Writer::Networks => archive.snapshot(of.at(), || Networks::new(Limits::default())),
            Writer::Slot(number) => archive.snapshot(of.at(), || self.fresh_slot(number, 0)),
        };
        Ok(made?.is_some())
    }

    /// A slot without flows; `run` names this start.
    pub fn fresh_slot(&self, number: u16, run: u64) -> Slot {
        Slot::new(SlotSetup {
            id: SlotId(number),
            hash: self.hash.clone(),
            run,
            trackers: Arc::from([self.name.clone()]),
            limits: SlotLimits::default(),
        })
    }

    /// Recovers all slots, on all processors: in the order of their numbers, each with a cut of
    /// all that it holds.
    ///
    /// # Errors
    /// Their records do not make a state.
    pub fn recover_slots(&self) -> Result<Vec<(Driver<Slot>, Cut)>, StartError> {
        let run = self.seed.wrapping_add(self.clock.now().0);
        self.journal.reader().settle().map_err(RecoveryError::from)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        in_parallel(self.hash.slots(), threads, |number| {
            let (fresh, setup) = (|| self.fresh_slot(number, run), self.setup(slot(number)));
            let now = self.clock.now();
            let driver = Driver::recover_settled(&self.journal.reader(), fresh, setup, now)?;
            let cut = first_cut(driver.machine());
            Ok((driver, cut))
        })
    }

    /// Starts the host of all slots, and says what their flows hold. Nothing that was decided
    /// before is on its way to slots that have not yet started.
    ///
    /// # Errors
    /// Their records do not make a state.
    pub async fn slots(&self, supervisor: ActorCell) -> Result<Vec<Cut>, StartError> {
        let begun = Instant::now();
        let (drivers, cuts): (Vec<_>, Vec<_>) = self.recover_slots()?.into_iter().unzip();
        let flows: usize = drivers.iter().map(|driver| driver.machine().flow_count()).sum();
        tracing::info!(flows, ms = begun.elapsed().as_millis() as u64, "slots are recovered");
        let setup = self.host(drivers, SlotOutlet(self.wiring.clone()));
        let (host, _) = self.tier.run(spawn(None, setup, Some(supervisor))).await?;
        self.wiring.set_slots(host);
        Ok(cuts)
    }

    /// Starts the decision host, which follows `catalog` and knows what live flows hold by
    /// `cuts` before it decides anything.
    ///
    /// # Errors
    /// The actor did not start.
    pub async fn decision(
        &self,
        catalog: &Catalog,
        cuts: Vec<Cut>,
        supervisor: ActorCell,
    ) -> Result<(), StartError> {
        let now = self.clock.now();
        // Above all that an earlier start gave: fewer than 2^20 directives a millisecond.
        let first = DirectiveId((now.0 / 1_000_000) << 20);
        let machine = Decision::new(DecisionSetup::new(self.hash.clone(), first));
        let setup = self.setup(slot(u16::MAX));
        let mut driver = Driver::resume(machine, setup, Position::default(), now);
        let configure = catalog.snapshot().into_iter().map(decision::Command::Configure);
        for command in configure.chain([decision::Command::Begin(cuts)]) {
            driver.handle(Input::Command { command, reply: None }, now);
        }
        let setup = HostSetup {
            drivers: vec![driver],
            journal: Box::new(|_| Box::new(NoJournal)),
            outlet: Box::new(DecisionOutlet(self.wiring.clone())) as Box<dyn Outlet<Decision>>,
            clock: self.clock,
        };
        let (host, _) = self.tier.run(spawn(None, setup, Some(supervisor))).await?;
        self.wiring.set_decision(host);
        Ok(())
    }
}
