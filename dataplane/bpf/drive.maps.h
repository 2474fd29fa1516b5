// What shards and the program of the ports share: rows of entries and next hops, generation words,
// and what belongs to one start. Mirrored by nic/af_xdp/drive/memory.rs; LAYOUT in nic/af_xdp/drive.rs
// goes up with any change of a structure or of the tallies here.

#pragma once

#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

// Ports of a node. Mirrored by PORTS_MAX in route.rs.
#define PORTS_MAX 16
// Rows of next hops that a shard has; the low half of an index. The same of generation words.
#define HOPS_MAX 65536
#define WORDS_MAX 65536
// An entry lies in one of so many rows, from its home on. Mirrored by WINDOW in place.rs.
#define WINDOW 16

// A port, by its place among the interfaces.
struct port {
    __u32 network;
    __u8 mac[ETH_ALEN];
    // Whether frames that come in here may be driven.
    __u8 drives;
    __u8 zero;
};

// A flow's key with ports and addresses as they stand in the packet.
struct flow4 {
    __u32 network;
    __be32 source;
    __be32 destination;
    __be32 ports;
    __u32 protocol;
};

struct flow6 {
    __u32 network;
    __be32 source[4];
    __be32 destination[4];
    __be32 ports;
    __u32 protocol;
};

// What rows of both versions begin with. A row is an entry: a key, what its packets leave with, on
// which terms it counts, and what has passed since that was last taken. Its number is 0 while it is
// written: who reads it meanwhile finds 0, or another number at the end than at the beginning, and
// does not believe it.
struct row {
    // 0 while the rest is written, and while there is none.
    __u32 number;
    // How far from here, its home, an entry may lie.
    __u8 reach;
    __u8 protocol;
    // Its generation word.
    __u16 requirement;
    __u32 generation;
    // Number of the next hop's row, of the same shard.
    __u32 next_hop;
    // The key without its protocol, the new ends, and the last of its terms: from the low bits on,
    // seconds of silence after which it no longer counts (16, so 65 535 stands for all longer ones),
    // flags (8), DSCP (8).
    __u32 body[];
};

// What an entry's packets have come to.
struct counted {
    __u64 bytes;
    __u32 packets;
    // When the last one came, in stamps: the coarse monotonic clock in units of 2^20 ns.
    __u32 last_seen;
};

// A row of IPv4 and one of IPv6: the head of `struct row`, its body, and what was counted.
struct row4 {
    __u32 head[4];
    __u32 body[4 + 3 + 1];
    struct counted counted;
};

struct row6 {
    __u32 head[4];
    __u32 body[10 + 9 + 1];
    struct counted counted;
    __u64 zeros[2];
};

_Static_assert(offsetof(struct row, body) == offsetof(struct row4, body), "the same head");
_Static_assert(sizeof(struct row4) == 64 && offsetof(struct row4, counted) == 48, "as in memory.rs");
_Static_assert(sizeof(struct row6) == 128 && offsetof(struct row6, counted) == 96, "as in memory.rs");

// What is read of a row before it is believed.
struct terms {
    __u32 generation;
    __u32 next_hop;
    __u16 requirement;
    __u16 idle_s;
    __u8 flags;
    __u8 dscp;
};

struct homes {
    __u32 four;
    __u32 six;
};

// A next hop: what a frame begins with, and where it leaves. Only the first word of a row changes
// while it keeps its number, which is 0 while anything else does.
struct hop {
    __u64 ethernet;
    __u32 ethernet_rest;
    __u16 mtu;
    __u8 port;
    __u8 zero;
    __u32 number;
    __u32 zeros;
};

// What became of frames. Mirrored by `Tally` in drive.rs.
enum tally { HIT, UNKNOWN, OUTDATED, IDLE, NO_HOP, TOO_BIG, PARTIAL, SPECIAL, TALLIES };

// The default sizes here are overridden at load.
// Set by the loader: the interfaces of the ports, in order; 0 stands for none.
const volatile __u32 interfaces[PORTS_MAX] = {};
// Set by the loader: rows of each shard, and what hashes begin with.
const volatile __u32 shard_rows4 = WINDOW;
const volatile __u32 shard_rows6 = WINDOW;
const volatile __u64 seed = 0;

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PORTS_MAX);
    __type(key, __u32);
    __type(value, struct port);
} ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, PORTS_MAX);
    __type(key, __u32);
    __type(value, __u32);
} steer SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP);
    __uint(max_entries, PORTS_MAX);
    __type(key, __u32);
    __type(value, __u32);
} egress SEC(".maps");

// One shard's rows behind the other's. After those that are homes a few more, for entries whose home
// is the last one.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, WINDOW);
    __type(key, __u32);
    __type(value, struct row4);
} rows4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, WINDOW);
    __type(key, __u32);
    __type(value, struct row6);
} rows6 SEC(".maps");

// Homes in use, of each shard: powers of two, or 0 before there is any.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct homes);
} homes SEC(".maps");

// A generation word for each requirement of each shard: an entry made with another one is a miss.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, WORDS_MAX);
    __type(key, __u32);
    __type(value, __u32);
} words SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, HOPS_MAX);
    __type(key, __u32);
    __type(value, struct hop);
} hops SEC(".maps");

// What the maps are made for. Only processes read it: see `Layout` in drive.rs.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64[4]);
} layout SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, TALLIES);
    __type(key, __u32);
    __type(value, __u64);
} tallies SEC(".maps");
