//! Who may be in the driver, and why a direction is not.

use super::{Drives, Flow, Held, IDLE_MS_MIN};
use crate::cache::Form;
use crate::packet::tcp;
use crate::route::Hop;
use crate::shard::{Shard, time_of};
use crate::words::Standing;
use penstock_event_schema::directive::flag;
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::{NetworkId, Time};

/// Flags of an entry that the driver's program carries out.
pub(super) const DRIVEN: u8 = flag::DECREMENT_TTL | flag::SET_DSCP;
/// TCP flags of segments that are the shard's.
const NOTABLE: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;

/// Why the driver does not carry a direction that a shard has cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NotDriven {
    /// There is no cache in the driver.
    Off,
    /// All flows leave it: the program goes.
    Draining,
    /// Neither TCP nor UDP.
    Protocol,
    /// What is done with its packets is more than the driver can do.
    Operations,
    /// Its entry counts no more. Never shown: such an entry is not listed.
    Outdated,
    /// Each of its packets is metered.
    Metered,
    /// Its requirement is watched more closely than the driver's readings allow.
    Watched,
    /// Its idle limit is too short for readings, and the reports behind them, to keep up with.
    ShortIdle,
    /// Its next hop is looked up with the next packet.
    NoWay,
    /// The hardware address of its next hop is not known.
    NextHop,
    /// The driver cannot send by the port that it leaves by.
    Egress,
    /// The driver cannot take the frames of the port that it comes in at.
    Ingress,
    /// A FIN or RST was seen, or a SYN since the last report.
    Ending,
    /// It was in the driver, and its packets came to the shard nevertheless.
    InVain,
    /// The other direction was not in the driver.
    Refused,
    /// No packet of it was reported since it was cached.
    Unused,
    /// The same of its other direction.
    Unanswered,
    /// There is no room for it near its home or at all, and who is there has more than half of its
    /// packets.
    Full,
    /// Nothing speaks against it: it is taken with its next report.
    Due,
}

impl NotDriven {
    /// For people, as what follows "not in the driver: ".
    pub fn text(self) -> &'static str {
        match self {
            NotDriven::Off => "its cache is off: see DRIVER in `penstock get node`",
            NotDriven::Draining => "the node is stopping",
            NotDriven::Protocol => "neither TCP nor UDP",
            NotDriven::Operations => "its packets are copied",
            NotDriven::Outdated => "its directive counts no more",
            NotDriven::Metered => "its requirement has `limits.packetsPerSecond`",
            NotDriven::Watched => {
                "its requirement has or had an intervention on `packetsPerSecondOver`, or was \
                 changed just now"
            }
            NotDriven::ShortIdle => "its idle limit (`idle` of its requirement) is under 10 s",
            NotDriven::NoWay => "its next packet looks up its route anew",
            NotDriven::NextHop => "the hardware address of its next hop is not known",
            NotDriven::Egress => {
                "the driver cannot send by the port that it leaves by: see DRIVER in \
                 `penstock get node`"
            }
            NotDriven::Ingress => {
                "the driver cannot take packets from the port that it comes in at: see DRIVER in \
                 `penstock get node`"
            }
            NotDriven::Ending => "a FIN or RST was seen",
            NotDriven::InVain => {
                "the driver left all of its packets alone (`penstock top` counts why); it is tried \
                 again later"
            }
            NotDriven::Refused => {
                "its other direction is not in the driver: not answered yet, or see there"
            }
            NotDriven::Unused => "no packet of it was reported since the shard has it",
            NotDriven::Unanswered => {
                "no packet of its other direction was reported since the shard has it"
            }
            NotDriven::Full => {
                "no room: it would need more than twice the packets of a flow that is there \
                 (`dataplane.driverEntriesMax`)"
            }
            NotDriven::Due => "nothing is against it: its next packets bring it in",
        }
    }
}

/// For how many of its reports a direction is not looked at, and why.
#[derive(Clone, Copy)]
pub(super) struct Shun {
    pub(super) reports: u16,
    pub(super) why: NotDriven,
}

/// It is looked at.
pub(super) const NOT_SHUNNED: Shun = Shun { reports: 0, why: NotDriven::Due };
/// The driver could do nothing with its packets.
pub(super) const IN_VAIN: Shun = Shun { reports: 150, why: NotDriven::InVain };
/// The driver did not take it.
pub(super) const REFUSED: Shun = Shun { reports: 5, why: NotDriven::Refused };
/// A FIN or RST was seen of it.
pub(super) const ENDING: Shun = Shun { reports: 20, why: NotDriven::Ending };

/// How it is known that a flow was answered.
pub(super) enum Answered {
    Here,
    /// It was when this is in the driver.
    Where(Flow),
}

impl Shard {
    /// Whether the driver's maps hold all that is done with packets of an entry that counts, and
    /// both of its ports can.
    pub(super) fn is_plain<F: Form>(&self, form: &F) -> bool {
        self.not_plain(form).is_none()
    }

    fn not_plain<F: Form>(&self, form: &F) -> Option<NotDriven> {
        let (state, driver) = (form.state(), &self.driver);
        let standing = self.words.standing(state.requirement, state.generation);
        let hop = self.router.hop(state.next_hop);
        let ingress = self.router.attachment(NetworkId(form.network()));
        let protocol = Protocol(form.protocol());
        let against = [
            (!matches!(protocol, Protocol::TCP | Protocol::UDP), NotDriven::Protocol),
            (state.flags & (flag::NEGATIVE | flag::SIDE_TABLE) != 0, NotDriven::Operations),
            (standing == Standing::Outdated, NotDriven::Outdated),
            (standing == Standing::Metered, NotDriven::Metered),
            (driver.kept.contains(&state.requirement), NotDriven::Watched),
            (hop.is_none(), NotDriven::NoWay),
            (hop.is_some_and(|hop| !hop.resolved), NotDriven::NextHop),
            (hop.is_some_and(|hop| !is_way(hop, driver.drives)), NotDriven::Egress),
            (
                ingress.is_none_or(|port| !Drives::has(driver.drives.ingress, port)),
                NotDriven::Ingress,
            ),
        ];
        against.into_iter().find(|(is_so, _)| *is_so).map(|(_, why)| why)
    }

    /// Why an entry cannot be promoted with a report of these TCP flags. Not said by this: whether it
    /// was answered, and whether there is room.
    pub(super) fn kept_out<F: Form>(
        &self,
        form: &F,
        idle_ms: u32,
        tcp_flags: u8,
    ) -> Option<NotDriven> {
        match () {
            () if self.driver.draining => Some(NotDriven::Draining),
            () if idle_ms < IDLE_MS_MIN => Some(NotDriven::ShortIdle),
            () if tcp_flags & NOTABLE != 0 => Some(NotDriven::Ending),
            () => self.not_plain(form),
        }
    }

    /// Since when the driver has carried an entry, on terms that hold.
    pub(crate) fn driven_since<F: Form>(&self, slot: u32, now: Time) -> Option<Time> {
        if !self.driver.is_on() {
            return None;
        }
        let place = self.driver.place_of(F::slot(slot));
        let held = self.driver.held.get(place.slot as usize)?;
        let form = F::table(&self.tables).entry(slot);
        self.held_in_vain(held, form).is_none().then(|| time_of(held.since, now))
    }

    /// Why the driver leaves packets alone of an entry that it has.
    fn held_in_vain<F: Form>(&self, held: &Held, form: &F) -> Option<NotDriven> {
        let state = form.state();
        // What is to be said to the driver anew is said with the next report.
        let holds = (held.generation, held.next_hop) == (state.generation, state.next_hop);
        self.not_plain(form).or((!holds).then_some(NotDriven::Due))
    }

    /// Why the driver does not carry an entry. None when it does.
    pub(crate) fn not_driven<F: Form>(&self, slot: u32) -> Option<NotDriven> {
        if !self.driver.is_on() {
            return Some(NotDriven::Off);
        }
        let place = self.driver.place_of(F::slot(slot));
        let form = F::table(&self.tables).entry(slot);
        if let Some(held) = self.driver.held.get(place.slot as usize) {
            return self.held_in_vain(held, form);
        }
        if !place.passed {
            return Some(NotDriven::Unused);
        }
        let shunned = (place.shunned > 0).then_some(place.why);
        let unanswered = || self.answered_by(form).is_none().then_some(NotDriven::Unanswered);
        let full = || {
            let room = self.driver.room_for(&form.driver_rewrite().flow());
            let is_full = room.is_none() || self.driver.bars.iter().any(|&bar| bar > 0);
            is_full.then_some(NotDriven::Full)
        };
        let kept = self.kept_out(form, place.idle_ms, 0);
        kept.or(shunned).or_else(unanswered).or_else(full).or(Some(NotDriven::Due))
    }

    /// Whether packets of the other direction have passed. None when they have not.
    pub(super) fn answered_by<F: Form>(&self, form: &F) -> Option<Answered> {
        if form.state().flags & flag::REVERSE != 0 {
            // A packet of this direction is the answer.
            return Some(Answered::Here);
        }
        let back = other_way(form);
        if let Some(slot) = self.find::<F>(&back) {
            return self.driver.place_of(F::slot(slot)).passed.then_some(Answered::Here);
        }
        // Its answers may come to another shard: the insert goes through only if they are in.
        let bare = F::bare(&back, 0).filter(|_| !self.config.both_directions)?;
        Some(Answered::Where(bare.driver_rewrite().flow()))
    }
}

/// The key of packets that answer those of an entry.
pub(super) fn other_way<F: Form>(form: &F) -> FlowKey {
    let (source, destination) = form.translated();
    FlowKey {
        network: NetworkId(form.state().side),
        protocol: Protocol(form.protocol()),
        source: destination.ip(),
        source_port: destination.port(),
        destination: source.ip(),
        destination_port: source.port(),
    }
}

/// Whether the driver can send frames there.
pub(super) fn is_way(hop: &Hop, drives: Drives) -> bool {
    hop.resolved && Drives::has(drives.egress, hop.port)
}
