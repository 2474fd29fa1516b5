//! Packets that find their directive cost no allocation. The binary's allocator counts.
#![allow(missing_docs, reason = "tests")]
#![allow(unsafe_code, reason = "a global allocator is unsafe by its signature")]

use penstock_dataplane::meter::Share;
use penstock_dataplane::nic::memory::MemoryNic;
use penstock_dataplane::nic::{Frame, FrameMemory, PortIndex};
use penstock_dataplane::route::{Route, RouteTable};
use penstock_dataplane::shard::{
    DropReason, PortState, Shard, ShardConfig, ShardInput, ShardOutput,
};
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::id::{DirectiveId, Generation, NetworkId, RequirementId, Time};
use penstock_event_schema::message::tracker::DirectiveReply;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that ends has no counter any more, and none is asked for.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A UDP packet to 10.1.0.1:53 without a checksum, from 10.0.0.5 and a port. Of four, two go the
/// short way, one of them padded as on a wire; bytes behind the datagram keep the third from it,
/// and options of its header let the fourth go alone.
fn datagram(source_port: u16) -> Vec<u8> {
    let (behind, options) = match source_port % 4 {
        2 => (4, &[][..]),
        3 => (0, &[1, 1, 1, 1][..]),
        _ => (0, &[][..]),
    };
    let mut frame = [&MAC[..], &[2, 0, 0, 0, 0, 1, 8, 0]].concat();
    let (words, bytes) = (5 + options.len() / 4, 28 + options.len() + behind);
    let fixed = [0x40 | words as u8, 0, 0, bytes as u8, 0, 0, 0, 0, 64, 17, 0, 0];
    let header = [&fixed[..], &[10, 0, 0, 5, 10, 1, 0, 1], options].concat();
    let words = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame.extend(&header);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(source_port.to_be_bytes());
    frame.extend([0, 53, 0, 8, 0, 0]);
    frame.resize(frame.len() + behind, 0);
    if source_port.is_multiple_of(4) {
        frame.resize(60, 0);
    }
    frame
}

fn configured(memory: &mut MemoryNic) -> Shard {
    let config =
        ShardConfig { cache_entries4_max: 1_000, cache_entries6_max: 10, ..ShardConfig::default() };
    let mut shard = Shard::new(config);
    let mut tell = |input| shard.handle_input(memory, input, Time(0));
    for port in [PortIndex(0), PortIndex(1)] {
        let state =
            PortState { name: "p".into(), mac: MAC, mtu: 1_500, addresses: vec![], up: true };
        tell(ShardInput::Port(port, state));
    }
    tell(ShardInput::Networks(vec![(NetworkId(1), PortIndex(0)), (NetworkId(2), PortIndex(1))]));
    let prefix = "0.0.0.0/0".parse().expect("a prefix");
    let (port, gateway) = (PortIndex(1), "10.2.0.1".parse().expect("an address"));
    let route = Route { prefix, port, gateway: Some(gateway) };
    tell(ShardInput::Routes(RouteTable::new(vec![route])));
    tell(ShardInput::Neighbour { port, address: gateway, mac: Some([2, 0, 0, 0, 0, 3]) });
    shard
}

/// Sends a batch and releases what leaves; how much left.
fn send(
    shard: &mut Shard,
    memory: &mut MemoryNic,
    ports: std::ops::Range<u16>,
    frames: &[Vec<u8>],
    batch: &mut Vec<Frame>,
    now: Time,
) -> usize {
    batch.clear();
    for port in ports {
        batch.push(memory.put(PortIndex(0), &frames[usize::from(port)]).expect("a chunk"));
    }
    shard.handle_packets(memory, batch, now);
    if shard.next_timeout().is_some_and(|due| due <= now) {
        shard.handle_timeout(memory, now);
    }
    let left = shard.transmits().len();
    for frame in shard.transmits().drain(..) {
        memory.release(frame);
    }
    left
}

#[test]
fn a_hundred_thousand_hits_allocate_nothing() {
    check(None, 102_400);
    // Half of the 64 of each millisecond; the first batch meets an empty bucket.
    check(Some(Share::of(32_000)), 51_168);
}

/// So many of the packets leave; the same without and with a limit that meters them.
fn check(share: Option<Share>, expected: usize) {
    let mut memory = MemoryNic::new(2, 256, 2_048);
    let mut shard = configured(&mut memory);
    let frames: Vec<Vec<u8>> = (0..512).map(|n| datagram(n + 1)).collect();
    let mut batch = Vec::with_capacity(64);
    for n in 0..512 {
        send(&mut shard, &mut memory, n..n + 1, &frames, &mut batch, Time(1));
        let Some(ShardOutput::Request(request)) = shard.poll_output() else {
            unreachable!("a first packet asks")
        };
        let reverse = format!("2/udp/10.2.0.9:53>10.2.0.100:{}", n + 1).parse().expect("a key");
        let directive = Arc::new(Directive {
            id: DirectiveId(1),
            requirement: RequirementId(1),
            generation: Generation(1),
            flow: request.key,
            reverse: Some(reverse),
            egress: NetworkId(2),
            ops: vec![Op::DecrementTtl],
            idle_ms: 1_000,
        });
        let reply = DirectiveReply::Install { key: request.key, directive };
        shard.handle_input(&mut memory, ShardInput::Reply(reply), Time(1));
        for frame in shard.transmits().drain(..) {
            memory.release(frame);
        }
    }
    let way_before = {
        let counters = shard.counters();
        (counters.short_way, counters.batch_way)
    };
    shard.handle_input(&mut memory, ShardInput::Share(RequirementId(1), share), Time(1));
    let before = ALLOCATIONS.get();
    let (mut left, mut reports, mut meters) = (0, 0, 0);
    for round in 0..1_600u64 {
        let first = (round % 8) as u16 * 64;
        // A millisecond a round: rounds of reports are part of it.
        let now = Time(1 + round * 1_000_000);
        left += send(&mut shard, &mut memory, first..first + 64, &frames, &mut batch, now);
        while let Some(output) = shard.poll_output() {
            match output {
                ShardOutput::Report(_) => reports += 1,
                ShardOutput::Metered(_) => meters += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    let allocated = ALLOCATIONS.get() - before;
    assert_eq!((left, allocated), (expected, 0));
    let counters = shard.counters();
    if share.is_none() {
        let way = (counters.short_way - way_before.0, counters.batch_way - way_before.1);
        assert_eq!(way, (51_200, 25_600), "by the short way, and by the other one in their batch");
    }
    assert_eq!(counters.dropped_for(DropReason::RequirementRate) as usize, 102_400 - left);
    assert_eq!(meters > 0, share.is_some());
    assert!(reports > 512, "{reports} reports");
    assert!(before > 0, "the allocator counts");
}
