//! Composes what a requirement asks for into one directive: the target first, since a pool port is
//! taken toward the chosen end, then the source, then what is set on every packet.

use super::aggregate::Collection;
use super::ports::{Found, Wanted, has_ports};
use super::targets::Tables;
use crate::deliberate::{Fault, is};
use crate::network::Catalog;
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::event::flow::{Choice, RefusalReason, Resource};
use penstock_event_schema::flow::{FlowKey, Protocol, SlotHash};
use penstock_event_schema::id::{DirectiveId, NetworkId, RequirementId, TargetId, TargetSetId};
use penstock_event_schema::message::decision::{DecisionRequest, Proposal};
use penstock_event_schema::requirement::{
    AnycastPolicy, Requirement, SourceSubstitution, Transform, UnknownPolicy,
};
use std::net::SocketAddr;

/// What is in use, as a choice asks for it: the collection where a flow is decided, what the
/// event says of it where the choice is made again.
pub trait Occupancy {
    /// Whether enough is known to say which ports are free.
    fn is_complete(&self) -> bool;

    /// Live flows of a target.
    fn count(&self, target: TargetId) -> u32;

    /// Live flows of a requirement that limits them.
    fn places(&self, requirement: RequirementId) -> u32;

    /// A free pool port.
    fn free_port(&self, wanted: &Wanted<'_>) -> Option<Found>;
}

impl Occupancy for Collection {
    fn is_complete(&self) -> bool {
        self.is_complete()
    }

    fn count(&self, target: TargetId) -> u32 {
        self.count(target)
    }

    fn places(&self, requirement: RequirementId) -> u32 {
        self.places(requirement)
    }

    fn free_port(&self, wanted: &Wanted<'_>) -> Option<Found> {
        wanted.search(self)
    }
}

/// All that a choice looks at.
pub struct Chooser<'a> {
    /// The configuration.
    pub catalog: &'a Catalog,
    /// The tables of its target sets.
    pub tables: &'a Tables,
    /// What is in use.
    pub collection: &'a dyn Occupancy,
    /// The cluster's keyed hash.
    pub hash: &'a SlotHash,
    /// How long after the question a proposal may be taken up.
    pub first_use_ms_max: u64,
}

/// A directive in the making.
struct Draft<'a> {
    key: &'a FlowKey,
    hash: u64,
    seed: u64,
    excluded: &'a [Resource],
    source: SocketAddr,
    destination: SocketAddr,
    egress: NetworkId,
    copies: Option<Vec<SocketAddr>>,
    resources: Vec<Resource>,
    choices: Vec<Choice>,
}

impl Chooser<'_> {
    /// The proposal for a packet, as directive `id`.
    ///
    /// # Errors
    /// Why there is none, and what the sender gets.
    pub fn choose(
        &self,
        request: &DecisionRequest,
        id: DirectiveId,
        seed: u64,
    ) -> Result<Proposal, (RefusalReason, UnknownPolicy)> {
        let key = &request.key;
        let requirement = self.applicable(request)?;
        let refused = |reason| (reason, UnknownPolicy::Drop);
        let limit = requirement.limits.flows;
        let spared = u32::from(is(Fault::PassLimit));
        if limit.is_some_and(|limit| self.collection.places(requirement.id) >= limit + spared) {
            return Err(refused(RefusalReason::FlowLimit));
        }
        let mut draft = Draft {
            key,
            hash: self.hash.hash(key),
            seed,
            excluded: &request.excluded,
            source: key.source_end(),
            destination: key.destination_end(),
            egress: key.network,
            copies: None,
            resources: Vec::with_capacity(2),
            choices: Vec::with_capacity(2),
        };
        for step in &requirement.transform {
            match step {
                Transform::Anycast { target_set, policy } => {
                    self.anycast(&mut draft, *target_set, *policy).map_err(refused)?;
                }
                Transform::Multicast { target_set, copies_max } => {
                    self.multicast(&mut draft, *target_set, *copies_max).map_err(refused)?;
                }
                Transform::SourceSubstitution(_) => {}
            }
        }
        for step in &requirement.transform {
            if let Transform::SourceSubstitution(pool) = step {
                self.substitute(&mut draft, pool).map_err(refused)?;
            }
        }
        if limit.is_some() {
            draft.resources.push(Resource::Place(requirement.id));
        }
        let network = self.catalog.network(key.network);
        Ok(Proposal {
            ask: request.ask,
            tenant: network.map(|network| network.tenant.clone()).unwrap_or_default(),
            partition: requirement.partition.clone(),
            unknown: requirement.unknown,
            interventions: requirement.interventions.clone(),
            first_use_ms_max: self.first_use_ms_max,
            resources: std::mem::take(&mut draft.resources),
            choices: std::mem::take(&mut draft.choices),
            directive: draft.directive(requirement, id).into(),
        })
    }

    /// The requirement by which a flow may be opened.
    fn applicable(
        &self,
        request: &DecisionRequest,
    ) -> Result<&Requirement, (RefusalReason, UnknownPolicy)> {
        if request.opening {
            let found = self.catalog.requirement_for(&request.key);
            return Ok(found.ok_or((RefusalReason::NoRequirement, UnknownPolicy::Drop))?);
        }
        Err(match self.catalog.requirement_behind(&request.key) {
            Some(requirement) => (RefusalReason::UnknownFlow, requirement.unknown),
            None => (RefusalReason::NoRequirement, UnknownPolicy::Drop),
        })
    }

    fn anycast(
        &self,
        draft: &mut Draft<'_>,
        set: TargetSetId,
        policy: AnycastPolicy,
    ) -> Result<(), RefusalReason> {
        let table =
            self.tables.get(set, draft.key.source.is_ipv4()).ok_or(RefusalReason::NoTarget)?;
        if table.is_shut() {
            return Err(RefusalReason::NoHealthyTarget);
        }
        let excluded = table.excluded(draft.excluded);
        let (target, choice) = match policy {
            AnycastPolicy::Maglev => {
                let target = table.hashed(draft.hash, &excluded).ok_or(RefusalReason::NoTarget)?;
                let choice = Choice::Maglev {
                    generation: table.generation,
                    hash: draft.hash,
                    target: target.id,
                    excluded: excluded.boxed(),
                };
                (target, choice)
            }
            AnycastPolicy::LeastConnections => {
                let (target, candidates) = table
                    .less_loaded(draft.seed, &excluded, |id| self.collection.count(id))
                    .ok_or(RefusalReason::NoTarget)?;
                let choice = Choice::LeastConnections {
                    generation: table.generation,
                    seed: draft.seed,
                    candidates,
                    target: target.id,
                    excluded: excluded.boxed(),
                };
                (target, choice)
            }
        };
        let set = self.catalog.target_set(set).ok_or(RefusalReason::NoTarget)?;
        draft.egress = set.network;
        draft.destination = draft.end(target.address, target.port);
        draft.resources.push(Resource::Target(target.id));
        draft.choices.push(choice);
        Ok(())
    }

    fn multicast(
        &self,
        draft: &mut Draft<'_>,
        set: TargetSetId,
        copies_max: u16,
    ) -> Result<(), RefusalReason> {
        let set = self.catalog.target_set(set).ok_or(RefusalReason::NoTarget)?;
        let is_ipv4 = draft.key.source.is_ipv4();
        let max = if copies_max == 0 { usize::MAX } else { usize::from(copies_max) };
        let excluded = self.catalog.excluded(set, is_ipv4);
        let targets = set.targets.iter().filter(|target| target.address.is_ipv4() == is_ipv4);
        let taking = targets.filter(|target| {
            !excluded.unhealthy.contains(&target.id) && !excluded.draining.contains(&target.id)
        });
        let copies: Vec<SocketAddr> =
            taking.take(max).map(|target| draft.end(target.address, target.port)).collect();
        let excluded = excluded.boxed();
        if copies.is_empty() {
            return Err(match excluded {
                Some(_) => RefusalReason::NoHealthyTarget,
                None => RefusalReason::NoTarget,
            });
        }
        draft.egress = set.network;
        draft.choices.push(Choice::Multicast {
            generation: set.generation,
            copies: copies.len() as u16,
            excluded,
        });
        draft.copies = Some(copies);
        Ok(())
    }

    fn substitute(
        &self,
        draft: &mut Draft<'_>,
        pool: &SourceSubstitution,
    ) -> Result<(), RefusalReason> {
        if !self.collection.is_complete() {
            return Err(RefusalReason::Synchronising);
        }
        let protocol = draft.key.protocol;
        let source = FlowKey {
            source_port: 0,
            destination: draft.key.source,
            destination_port: 0,
            ..*draft.key
        };
        let wanted = Wanted {
            pool,
            protocol,
            own_port: draft.key.source_port,
            toward: draft.destination,
            source_hash: self.hash.hash(&source),
            flow_hash: draft.hash,
            excluded: draft.excluded,
        };
        let found = self.collection.free_port(&wanted).ok_or(RefusalReason::PoolExhausted)?;
        draft.egress = pool.egress;
        draft.source = SocketAddr::new(found.taken.0, found.taken.1);
        draft.resources.push(Resource::Port {
            address: found.taken.0,
            port: found.taken.1,
            protocol,
            toward: draft.destination,
        });
        draft.choices.push(Choice::Port {
            start: found.start,
            skipped: found.skipped,
            taken: found.taken,
        });
        Ok(())
    }
}

impl Draft<'_> {
    /// The end of a target: its port, or the packet's where the target has none or where the port
    /// is an echo identifier's place.
    fn end(&self, address: std::net::IpAddr, port: u16) -> SocketAddr {
        let keeps = port == 0 || self.key.protocol.is_icmp() || !has_ports(self.key.protocol);
        SocketAddr::new(address, if keeps { self.key.destination_port } else { port })
    }

    fn directive(self, requirement: &Requirement, id: DirectiveId) -> Directive {
        let mut ops = Vec::with_capacity(5);
        if self.destination != self.key.destination_end() {
            ops.push(Op::SetDestination(self.destination));
        }
        if self.source != self.key.source_end() {
            ops.push(Op::SetSource(self.source));
        }
        ops.extend(requirement.dscp.map(Op::SetDscp));
        if self.key.protocol == Protocol::TCP {
            ops.extend(requirement.mss_max.map(Op::ClampMss));
        }
        ops.push(Op::DecrementTtl);
        let reverse = FlowKey {
            network: self.egress,
            protocol: self.key.protocol,
            source: self.destination.ip(),
            source_port: self.destination.port(),
            destination: self.source.ip(),
            destination_port: self.source.port(),
        };
        let one_way = self.copies.is_some();
        ops.extend(self.copies.map(Op::Replicate));
        Directive {
            id,
            requirement: requirement.id,
            generation: requirement.generation,
            flow: *self.key,
            reverse: (!one_way).then_some(reverse),
            egress: self.egress,
            ops,
            idle_ms: requirement.idle.of(self.key.protocol),
        }
    }
}
