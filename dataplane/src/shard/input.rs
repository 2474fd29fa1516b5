//! What a shard does with inputs that are not packets.

use super::{CachedDirective, Invalidation, Shard, ShardInput, Turn, Wanted, time_of};
use crate::cache::Form;
use crate::nic::FrameMemory;
use penstock_event_schema::directive::{Direction, FastForm4, FastForm6, flag};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{NetworkId, RequirementId, Time};

impl Shard {
    pub(super) fn take_input<M: FrameMemory>(&mut self, turn: &mut Turn<'_, M>, input: ShardInput) {
        match input {
            ShardInput::Reply(reply) => self.take_reply(turn, reply),
            ShardInput::Invalidate(what) => self.invalidate(what, turn.now),
            ShardInput::Port(port, state) => self.router.set_port(port, state),
            ShardInput::Networks(networks) => self.router.set_networks(&networks),
            ShardInput::Owned(owned) => self.owned = owned.into_iter().collect(),
            ShardInput::Routes(routes) => self.router.set_routes(routes),
            ShardInput::Neighbour { port, address, mac } => {
                self.take_neighbour(turn, port, address, mac);
            }
            ShardInput::Share(requirement, share) => self.take_share(requirement, share, turn.now),
            ShardInput::Drives(drives) => self.set_drives(drives),
            ShardInput::KeepFromDriver(kept) => {
                self.keep_from_driver(kept.into_iter().map(|requirement| requirement.0).collect());
            }
            ShardInput::DrainDriver => self.drain_driver(turn.now),
            ShardInput::List(wanted) => {
                let listed = self.listing(&wanted, turn.now);
                // Whoever asks faster than it takes waits for nothing that it would read.
                let _ = self.outbox.listing(listed);
            }
        }
    }

    fn invalidate(&mut self, what: Invalidation, now: Time) {
        match what {
            Invalidation::Keys(keys) => {
                for key in keys {
                    self.pending.outdate(&key);
                    self.disown_key(&key, now);
                    match key.source.is_ipv4() {
                        true => self.forget::<FastForm4>(&key, now),
                        false => self.forget::<FastForm6>(&key, now),
                    }
                }
            }
            Invalidation::Requirement(requirement) => {
                self.words.invalidate_requirement(requirement);
                self.disown_requirement(requirement, now);
            }
            // Whose networks the flows of an earlier process are in is not known yet.
            Invalidation::Network(_) if self.is_adopting() => self.words.invalidate_all(),
            Invalidation::Network(network) => self.words.invalidate_network(network),
            Invalidation::Unmatched => {
                self.words.invalidate_unmatched();
                self.budget.reset();
            }
            Invalidation::All => {
                self.words.invalidate_all();
                self.disown_all(now);
                self.budget.reset();
            }
        }
    }

    /// Takes an entry out and says what it has counted.
    fn forget<F: Form>(&mut self, key: &FlowKey, now: Time) {
        if let Some(slot) = self.find::<F>(key) {
            self.remove::<F>(slot, now);
        }
    }

    /// Empties a slot; the side table and the trackers lose nothing.
    pub(crate) fn remove<F: Form>(&mut self, slot: u32, now: Time) {
        if let Some(form) = F::table_mut(&mut self.tables).remove(slot) {
            self.forget_driven(slot, &form, now);
            self.let_go(form, now);
        }
    }

    /// What is owed to an entry that has left its table.
    pub(crate) fn let_go<F: Form>(&mut self, mut form: F, now: Time) {
        self.report(&mut form, now);
        if form.state().flags & flag::SIDE_TABLE != 0 {
            self.side.remove(form.state().side);
        }
    }

    fn listing(&self, wanted: &Wanted, now: Time) -> Vec<CachedDirective> {
        let mut listed: Vec<_> = match wanted {
            Wanted::AtMost(limit) => {
                let all = self.all::<FastForm4>(now).chain(self.all::<FastForm6>(now));
                all.take(*limit).collect()
            }
            Wanted::Keys(keys) => {
                let found = keys.iter().filter_map(|key| match key.source.is_ipv4() {
                    true => self.found::<FastForm4>(key, now),
                    false => self.found::<FastForm6>(key, now),
                });
                found.collect()
            }
        };
        // Where an entry lies depends on the seed; what is shown does not.
        listed.sort_by_key(|cached| cached.key);
        listed
    }

    fn all<F: Form>(&self, now: Time) -> impl Iterator<Item = CachedDirective> {
        let slots = F::table(&self.tables).iter().map(|(slot, _)| slot);
        slots.filter_map(move |slot| self.cached::<F>(slot, now))
    }

    /// The entry of a key, when it counts, and why the driver does not carry it.
    fn found<F: Form>(&self, key: &FlowKey, now: Time) -> Option<CachedDirective> {
        let slot = self.find::<F>(key)?;
        let not_driven = self.not_driven::<F>(slot);
        Some(CachedDirective { not_driven, ..self.cached::<F>(slot, now)? })
    }

    /// The entry in `slot`, when it counts.
    fn cached<F: Form>(&self, slot: u32, now: Time) -> Option<CachedDirective> {
        let form = F::table(&self.tables).entry(slot);
        let state = form.state();
        if !self.is_valid(&state) {
            return None;
        }
        let (source, destination) = form.translated();
        let side =
            (state.flags & flag::SIDE_TABLE != 0).then(|| self.side.get(state.side)).flatten();
        Some(CachedDirective {
            key: form.flow(),
            direction: match state.flags & flag::REVERSE {
                0 => Direction::Forward,
                _ => Direction::Reverse,
            },
            requirement: RequirementId(state.requirement),
            source,
            destinations: side.map_or_else(
                || vec![destination],
                |side| side.copies.iter().map(|copy| copy.destination).collect(),
            ),
            egress: side.map_or(NetworkId(state.side), |side| side.egress),
            ops: ops(state.flags),
            packets: state.packets,
            last_seen: time_of(state.last_seen, now),
            driven_since: self.driven_since::<F>(slot, now),
            not_driven: None,
        })
    }
}

/// Names of what is done beside the translation of ends.
fn ops(flags: u8) -> Vec<&'static str> {
    let named = [
        (flag::DECREMENT_TTL, "decrement_ttl"),
        (flag::SET_DSCP, "set_dscp"),
        (flag::CLAMP_MSS, "clamp_mss"),
        (flag::SIDE_TABLE, "replicate"),
    ];
    named.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| name).collect()
}
