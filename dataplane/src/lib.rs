//! Packets in, packets out.
//!
//! A [`shard::Shard`] is one thread's worth of dataplane: frames come in by a side of [`nic`], are
//! read by [`packet`], find their directive in the [`cache`] and are rewritten in place by
//! [`rewrite`]. What has no directive waits while its tracker is asked. The shard is pure: it has
//! no clock, no thread and no lock, so tests, benchmarks and the simulation run the very same code
//! as the node.
//!
//! | module | holds |
//! |---|---|
//! | [`packet`], [`rewrite`], [`craft`] | frames read, rewritten in place, made |
//! | [`pipeline`], [`batch`] | what becomes of a packet, as a list; the short way, in batches |
//! | [`shard`] | the whole: limits, inputs, outputs, time |
//! | [`cache`], [`side`], [`words`] | directives by key; what does not fit them; which still count |
//! | [`pending`], [`negative`] | packets without a directive, and what keeps junk from the slow path |
//! | [`meter`], [`apportion`] | limits of packets a second; a node's limit divided over its shards |
//! | [`driver_cache`] | which flows the driver carries, and what it is told of them |
//! | [`fragment`] | later fragments follow the first |
//! | [`route`], [`egress`] | next hops; neighbours not known yet, copies, cuts |
//! | [`answer`] | ICMP errors, resets, ARP and neighbour solicitations |
//! | [`report`], [`outbox`], [`counters`] | what the shard says of its flows and itself |
//! | [`parking`], [`waiting`], [`hash`], [`prefetch`] | bounded queues of frames, bounded maps by age, keyed hashing, memory asked for ahead |
//! | [`nic`] | sides that frames come from: in memory, AF_XDP |
//! | [`actor`] | a shard's thread and its supervision |
//! | [`mod@bench`] | the pipeline measured; the one place beside the thread that reads a clock |

pub mod actor;
pub mod answer;
pub mod apportion;
pub mod batch;
pub mod bench;
pub mod cache;
pub mod counters;
pub mod craft;
pub mod driver_cache;
pub mod egress;
pub mod fragment;
pub mod hash;
pub mod meter;
pub mod negative;
pub mod nic;
pub mod outbox;
pub mod packet;
pub mod parking;
pub mod pending;
pub mod pipeline;
pub mod prefetch;
pub mod report;
pub mod rewrite;
pub mod route;
pub mod shard;
pub mod side;
pub mod waiting;
pub mod words;
