//! What a shard has to say, until it is taken: bounded queues, questions first.

use crate::meter::Metered;
use crate::nic::PortIndex;
use crate::shard::{CachedDirective, ShardOutput};
use penstock_event_schema::message::report::ActivityReport;
use penstock_event_schema::message::tracker::DirectiveRequest;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Neighbours that may wait to be asked for.
const RESOLVES_MAX: usize = 1_024;
/// Listings that may wait to be taken.
const LISTINGS_MAX: usize = 4;

/// What is said of meters that may wait to be taken.
const METERS_MAX: usize = 1_024;

/// A queue that takes no more than it has room for.
struct Bounded<T> {
    queue: VecDeque<T>,
    max: usize,
}

impl<T> Bounded<T> {
    fn new(max: usize) -> Self {
        Bounded { queue: VecDeque::with_capacity(max), max }
    }

    fn room(&self) -> usize {
        self.max - self.queue.len()
    }

    fn push(&mut self, item: T) -> bool {
        let fits = self.room() > 0;
        if fits {
            self.queue.push_back(item);
        }
        fits
    }
}

/// The queues.
pub struct Outbox {
    requests: Bounded<DirectiveRequest>,
    resolves: Bounded<(PortIndex, IpAddr)>,
    listings: Bounded<Vec<CachedDirective>>,
    meters: Bounded<Metered>,
    reports: Bounded<ActivityReport>,
}

impl Outbox {
    /// Empty queues for so many requests and reports.
    pub fn new(requests_max: usize, reports_max: usize) -> Outbox {
        Outbox {
            requests: Bounded::new(requests_max),
            resolves: Bounded::new(RESOLVES_MAX),
            listings: Bounded::new(LISTINGS_MAX),
            meters: Bounded::new(METERS_MAX),
            reports: Bounded::new(reports_max),
        }
    }

    /// Whether no question fits.
    pub fn requests_full(&self) -> bool {
        self.requests.room() == 0
    }

    /// How many reports fit.
    pub fn reports_room(&self) -> usize {
        self.reports.room()
    }

    /// How much fits of what is said of meters.
    pub fn meters_room(&self) -> usize {
        self.meters.room()
    }

    /// Adds a question. False when it does not fit; so for all of these.
    #[must_use]
    pub fn request(&mut self, request: DirectiveRequest) -> bool {
        self.requests.push(request)
    }

    /// Adds a report.
    #[must_use]
    pub fn report(&mut self, report: ActivityReport) -> bool {
        self.reports.push(report)
    }

    /// Adds what is said of a meter.
    #[must_use]
    pub fn metered(&mut self, metered: Metered) -> bool {
        self.meters.push(metered)
    }

    /// Adds a neighbour to be asked for.
    #[must_use]
    pub fn resolve(&mut self, port: PortIndex, address: IpAddr) -> bool {
        self.resolves.push((port, address))
    }

    /// Adds a listing.
    #[must_use]
    pub fn listing(&mut self, listed: Vec<CachedDirective>) -> bool {
        self.listings.push(listed)
    }

    /// Takes the next output.
    pub fn pop(&mut self) -> Option<ShardOutput> {
        if let Some(request) = self.requests.queue.pop_front() {
            return Some(ShardOutput::Request(request));
        }
        if let Some((port, address)) = self.resolves.queue.pop_front() {
            return Some(ShardOutput::ResolveNeighbour { port, address });
        }
        if let Some(listed) = self.listings.queue.pop_front() {
            return Some(ShardOutput::Listed(listed));
        }
        if let Some(metered) = self.meters.queue.pop_front() {
            return Some(ShardOutput::Metered(metered));
        }
        self.reports.queue.pop_front().map(ShardOutput::Report)
    }
}
