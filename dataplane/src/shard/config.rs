//! The limits of a shard. Every table has its full size from the start.

use penstock_event_schema::id::ShardId;

/// What a shard starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardConfig {
    /// Its number.
    pub shard: ShardId,
    /// Random bits that no sender knows: seed of all its hashes.
    pub seed: u64,
    /// Cached IPv4 directions.
    pub cache_entries4_max: usize,
    /// Cached IPv6 directions.
    pub cache_entries6_max: usize,
    /// Cached directives that replicate.
    pub side_entries_max: usize,
    /// Directions of this shard that the driver carries; 0: none, the driver's cache is off.
    pub driver_entries_max: usize,
    /// Rows of the next-hop table, and neighbours.
    pub hops_max: usize,
    /// Whether an answer caches both directions. Right where packets of both directions come to
    /// this shard, so with one shard.
    pub both_directions: bool,
    /// How often an active flow is reported.
    pub report_ms: u64,
    /// Reports per millisecond; when more flows are active, each is reported less often.
    pub reports_per_ms_max: u32,
    /// Reports that may wait to be taken.
    pub reports_max: usize,
    /// Questions that may wait to be taken.
    pub requests_max: usize,
    /// Questions that may be open.
    pub pending_flows_max: usize,
    /// Frames that may wait for answers.
    pub pending_frames_max: usize,
    /// Frames of one flow that may wait for its answer.
    pub pending_frames_per_flow_max: usize,
    /// How long a frame waits for an answer.
    pub pending_ms_max: u64,
    /// How long "no requirement matches" is believed, and that an intervention has ended a flow.
    pub negative_ms: u64,
    /// Questions per source that no directive answers, in a row.
    pub source_burst_max: u32,
    /// Such questions per second after that.
    pub source_per_second_max: u32,
    /// Budgets: sources beyond share them by chance.
    pub sources_max: usize,
    /// Datagrams whose first fragment is remembered, and those whose first has not come.
    pub fragments_max: usize,
    /// Later fragments that may wait for their first.
    pub fragment_frames_max: usize,
    /// How long a later fragment waits for its first.
    pub fragment_ms_max: u64,
    /// Neighbours that may be waited for.
    pub neighbours_pending_max: usize,
    /// Frames that may wait for neighbours.
    pub neighbour_frames_max: usize,
    /// Frames that may wait for one neighbour.
    pub neighbour_frames_per_neighbour_max: usize,
    /// How long a frame waits for its neighbour.
    pub neighbour_ms_max: u64,
    /// ICMP errors per second, after a burst of as many (RFC 1812, 4.3.2.8; RFC 4443, 2.4 f).
    pub icmp_errors_per_second_max: u32,
    /// TCP resets per second, after a burst of as many.
    pub resets_per_second_max: u32,
}

impl Default for ShardConfig {
    /// A shard for about a million directions; it takes about 170 MB from the start.
    fn default() -> Self {
        ShardConfig {
            shard: ShardId(0),
            seed: 0,
            cache_entries4_max: 1 << 20,
            cache_entries6_max: 1 << 18,
            side_entries_max: 4_096,
            driver_entries_max: 0,
            hops_max: 65_536,
            both_directions: true,
            report_ms: 200,
            reports_per_ms_max: 128,
            reports_max: 8_192,
            requests_max: 4_096,
            pending_flows_max: 4_096,
            pending_frames_max: 4_096,
            pending_frames_per_flow_max: 64,
            pending_ms_max: 1_000,
            negative_ms: 1_000,
            source_burst_max: 2_048,
            source_per_second_max: 1_000,
            sources_max: 16_384,
            fragments_max: 4_096,
            fragment_frames_max: 512,
            fragment_ms_max: 1_000,
            neighbours_pending_max: 256,
            neighbour_frames_max: 512,
            neighbour_frames_per_neighbour_max: 64,
            neighbour_ms_max: 1_000,
            icmp_errors_per_second_max: 1_000,
            resets_per_second_max: 10_000,
        }
    }
}

impl ShardConfig {
    /// The most frames that the shard puts aside at once: the frame memory needs as many chunks
    /// beside those of the rings.
    pub fn parked_frames_max(&self) -> usize {
        self.pending_frames_max + self.fragment_frames_max + self.neighbour_frames_max
    }
}
