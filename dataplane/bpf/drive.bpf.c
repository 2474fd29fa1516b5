// Established flows that never leave the driver, and the way of everything else to a port's own
// steering program (steer.bpf.c).
//
// One instance of this program, with one set of maps, runs on all ports. A frame that is plain,
// undamaged, and of a flow in `rows4` or `rows6` is rewritten as its shard would, and sent by the
// port of its next hop. Whatever has anything special about it is left as it came:
//   SYN, FIN, RST; options and extension headers; fragments; all but TCP and UDP; the last hop of
//   its life; longer than its next link takes; a checksum that a local stack left unfinished; an
//   entry that is outdated, idle, or without a next hop.
// Nothing is changed before all of this is known.
//
// Entries are written by shards and by nobody else: see dataplane/src/driver_cache/. A shard has
// the frames of one receive queue, so its entries are looked for in the part of that queue alone.
// What a packet needs of its entry is one cache line of IPv4, two of IPv6.
// Program and maps outlive the process; what is in these is said in drive.maps.h.

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "drive.maps.h"

// Seconds of 2^20 ns, rounded down.
#define STAMPS_PER_SECOND 953
// What another processor may be ahead of this one's look at the clock.
#define STAMPS_APART 256

// Bits of `flags`, as the fast forms have them (event-schema/src/directive/fast.rs).
#define DECREMENT_TTL (1 << 2)
#define SET_DSCP (1 << 3)

// The longest IP header and what follows of TCP lie in the first bytes of a frame (RFC 9293 3.1).
#define TCP_HEADER_BYTES 20
// Words of the longest upper layer: the MTU of a port is 1778 at most (README.md).
#define UPPER_WORDS_MAX 445

// Whose frame it is not: the port's steering program's. No action of XDP has this number.
#define LEFT_ALONE (-1)

// What a frame shows before anything is looked up.
struct upper {
    // Bytes of the IP packet, and of what its header is followed by.
    __u32 ip_bytes;
    __u32 bytes;
    __be32 *ports;
    __u16 *check;
    bool is_udp;
};

static __always_inline void count(enum tally what)
{
    __u32 key = what;
    __u64 *tally = bpf_map_lookup_elem(&tallies, &key);

    if (tally)
        (*tally)++;
}

static __always_inline int left(enum tally why)
{
    count(why);
    return LEFT_ALONE;
}

// One's-complement sums, RFC 1071: words as the processor reads them, carries folded at the end.
static __always_inline __u16 fold(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

// What to add when a word becomes another one (RFC 1624, equation 3: ~m + m').
static __always_inline __u64 change(__u32 old, __u32 new)
{
    return (__u64)(__u32)~old + new;
}

static __always_inline __u16 corrected(__u16 check, __u64 change)
{
    return ~fold((__u16)~check + change);
}

static __always_inline __u64 sum_of(const __u32 *words, int number)
{
    __u64 sum = 0;
    int index;

    for (index = 0; index < number; index++)
        sum += words[index];
    return sum;
}

// Replaces words of a packet, and says what that changes.
static __always_inline __u64 replace(__be32 *words, const __be32 *new, int number)
{
    __u64 sum = 0;
    int index;

    for (index = 0; index < number; index++) {
        sum += change(words[index], new[index]);
        words[index] = new[index];
    }
    return sum;
}

// Reads a whole TCP segment that neither opens nor ends a connection, or a whole datagram. False
// when it is anything else.
static __always_inline bool read_upper(void *at, const void *end, __u8 protocol,
                                       struct upper *upper)
{
    struct tcphdr *tcp = at;
    struct udphdr *udp = at;

    upper->ports = at;
    upper->is_udp = protocol == IPPROTO_UDP;
    if (protocol == IPPROTO_TCP) {
        if (at + TCP_HEADER_BYTES > end || upper->bytes < TCP_HEADER_BYTES)
            return false;
        upper->check = &tcp->check;
        return tcp->doff >= 5 && tcp->doff * 4 <= upper->bytes && !tcp->syn && !tcp->fin &&
               !tcp->rst;
    }
    if (protocol != IPPROTO_UDP || (void *)(udp + 1) > end)
        return false;
    upper->check = &udp->check;
    return upper->bytes >= sizeof(*udp) && bpf_ntohs(udp->len) == upper->bytes;
}

// Whether what is covered by a checksum comes to what it should, with the sum of its pseudo header.
// The odd bytes go first: nothing but the sum outlives the loop, so that the verifier looks at what
// follows once, and not once for each length.
static __always_inline bool verifies(const struct upper *upper, const void *end, __u64 sum)
{
    const __u8 *at = (const void *)upper->ports;
    __u32 words = upper->bytes / 4, index;
    const __u8 *odd = at + (words & 0x1ff) * 4;

    if (words > UPPER_WORDS_MAX)
        return false;
    for (index = 0; index < (upper->bytes & 3); index++) {
        // Keeps the compiler from moving the comparison to the side that the verifier forbids.
        asm volatile("" : "+r"(odd));
        if ((const void *)(odd + 1) > end)
            return false;
        // Bytes at odd places are the second ones of their words.
        sum += bpf_htons(index & 1 ? *odd : *odd << 8);
        odd++;
    }
    for (index = 0; index < UPPER_WORDS_MAX && index < words; index++) {
        asm volatile("" : "+r"(at));
        if ((const void *)(at + 4) > end)
            return false;
        sum += *(const __u32 *)at;
        at += 4;
    }
    return fold(sum) == 0xffff;
}

// Whether the checksum holds nothing but the sum of the pseudo header: a local stack leaves the
// rest to hardware that is not there. One in 65 536 that are complete looks so too. `addresses` is
// their sum.
static __always_inline bool is_partial(const struct upper *upper, const void *end, __u64 addresses,
                                       __u8 protocol)
{
    __u64 pseudo = addresses + bpf_htonl(upper->bytes) + bpf_htons(protocol);

    return *upper->check == fold(pseudo) && !verifies(upper, end, pseudo);
}

static __always_inline void translate(struct upper *upper, __be32 new_ports, __u64 addresses)
{
    __u64 sum = addresses + replace(upper->ports, &new_ports, 1);
    __u16 check = *upper->check;

    // Zero means "no checksum" in UDP, and stays; a sum that comes to it is sent as its opposite.
    if (upper->is_udp && !check)
        return;
    check = corrected(check, sum);
    *upper->check = upper->is_udp && !check ? 0xffff : check;
}

// Mirrored by `Flow::hash` in driver_cache/entry.rs. Multiplication by 2^64 over the golden ratio
// brings all bits up, the shift brings them down again.
static __always_inline __u64 mix(__u64 hash, __u64 words)
{
    hash = (hash ^ words) * 0x9e3779b97f4a7c15;
    return hash ^ hash >> 32;
}

static __always_inline __u64 both(__u32 low, __u32 high)
{
    return (__u64)high << 32 | low;
}

static __always_inline __u32 hash4(const struct flow4 *flow)
{
    __u64 hash = mix(seed, both(flow->network, flow->protocol));

    hash = mix(hash, both(flow->source, flow->destination));
    return mix(hash, flow->ports);
}

static __always_inline __u32 hash6(const struct flow6 *flow)
{
    __u64 hash = mix(seed, both(flow->network, flow->protocol));

    hash = mix(hash, both(flow->source[0], flow->source[1]));
    hash = mix(hash, both(flow->source[2], flow->source[3]));
    hash = mix(hash, both(flow->destination[0], flow->destination[1]));
    hash = mix(hash, both(flow->destination[2], flow->destination[3]));
    return mix(hash, flow->ports);
}

// Copies words that another processor may write meanwhile.
static __always_inline void copy(__u32 *to, const volatile __u32 *from, int number)
{
    int index;

    for (index = 0; index < number; index++)
        to[index] = from[index];
}

static __always_inline bool differ(const volatile __u32 *one, const __u32 *other, int number)
{
    __u32 difference = 0;
    int index;

    for (index = 0; index < number; index++)
        difference |= one[index] ^ other[index];
    return difference;
}

// The row of a flow, from its home on, with its terms and new ends. NULL when there is none, or when
// it is being written. A row's body is `key_words` words of the key, then `end_words` of the new
// ends, then one of terms.
static __always_inline void *find(void *rows, __u32 home, const __u32 *key, int key_words,
                                  __u32 protocol, int end_words, struct terms *terms,
                                  __be32 *new_ends)
{
    __u32 at, index, number, last, reach = 0;

    for (at = 0, index = home; at < WINDOW && at <= reach; at++, index++) {
        volatile struct row *row = bpf_map_lookup_elem(rows, &index);

        if (!row)
            return NULL;
        if (!at)
            reach = row->reach;
        number = row->number;
        if (!number || row->protocol != protocol || differ(row->body, key, key_words))
            continue;
        terms->generation = row->generation;
        terms->next_hop = row->next_hop;
        terms->requirement = row->requirement;
        copy(new_ends, row->body + key_words, end_words);
        copy(&last, row->body + key_words + end_words, 1);
        terms->idle_s = last;
        terms->flags = last >> 16;
        terms->dscp = last >> 24;
        return row->number == number ? (void *)row : NULL;
    }
    return NULL;
}

static __always_inline struct row4 *find4(const struct flow4 *flow, __u32 shard,
                                          struct terms *terms, __be32 *new_ends)
{
    const volatile struct homes *in_use = bpf_map_lookup_elem(&homes, &shard);
    __u32 home;

    if (!in_use)
        return NULL;
    home = shard * shard_rows4 + (hash4(flow) & (in_use->four - 1));
    return find(&rows4, home, &flow->network, 4, flow->protocol, 3, terms, new_ends);
}

static __always_inline struct row6 *find6(const struct flow6 *flow, __u32 shard,
                                          struct terms *terms, __be32 *new_ends)
{
    const volatile struct homes *in_use = bpf_map_lookup_elem(&homes, &shard);
    __u32 home;

    if (!in_use)
        return NULL;
    home = shard * shard_rows6 + (hash6(flow) & (in_use->six - 1));
    return find(&rows6, home, &flow->network, 10, flow->protocol, 9, terms, new_ends);
}

// Whether an entry counts now.
static __always_inline int check_terms(const struct terms *terms, __u32 shard, __u32 silent)
{
    __u32 index = shard * WORDS_MAX | terms->requirement;
    const volatile __u32 *word = bpf_map_lookup_elem(&words, &index);

    if (!word || *word != terms->generation)
        return left(OUTDATED);
    // Another processor may have counted a packet since this one looked at the clock.
    if (silent > terms->idle_s * STAMPS_PER_SECOND && silent < (__u32)-STAMPS_APART)
        return left(IDLE);
    return 0;
}

// The next hop of an entry, read so that a row that is written anew meanwhile does not count.
static __always_inline bool read_hop(const struct terms *terms, __u32 shard, struct hop *hop)
{
    __u32 index = shard * HOPS_MAX | (terms->next_hop & (HOPS_MAX - 1));
    const volatile struct hop *row = bpf_map_lookup_elem(&hops, &index);

    if (!row || row->number != terms->next_hop)
        return false;
    hop->ethernet = row->ethernet;
    hop->ethernet_rest = row->ethernet_rest;
    hop->mtu = row->mtu;
    hop->port = row->port;
    return row->number == terms->next_hop && terms->next_hop;
}

// The way out to a next hop, for a packet of so many bytes: an action of XDP, or LEFT_ALONE.
static __always_inline int way_out(const struct terms *terms, __u32 shard, __u32 ip_bytes,
                                   __u32 ingress, struct hop *hop)
{
    if (!read_hop(terms, shard, hop))
        return left(NO_HOP);
    if (ip_bytes > hop->mtu)
        return left(TOO_BIG);
    if (hop->port == ingress)
        return XDP_TX;
    // A device that is gone has left the map.
    if (bpf_redirect_map(&egress, hop->port, 0) != XDP_REDIRECT)
        return left(NO_HOP);
    return XDP_REDIRECT;
}

static __always_inline void count_packet(struct counted *counted, __u32 ip_bytes, __u32 now)
{
    __sync_fetch_and_add(&counted->packets, 1);
    __sync_fetch_and_add(&counted->bytes, ip_bytes);
    counted->last_seen = now;
}

// The last that is done with a frame that leaves.
static __always_inline void address(struct xdp_md *context, const struct hop *hop)
{
    void *data = (void *)(long)context->data;
    const void *end = (const void *)(long)context->data_end;

    count(HIT);
    if (data + ETH_HLEN > end)
        return;
    *(__u64 *)data = hop->ethernet;
    *(__u32 *)(data + 8) = hop->ethernet_rest;
}

// Whether a header is undamaged, without options, of no fragment, and from a single host.
static __always_inline bool is_plain4(const struct iphdr *ip)
{
    __u8 first = bpf_ntohl(ip->saddr) >> 24;

    return ip->version == 4 && ip->ihl == 5 && !(ip->frag_off & bpf_htons(0x3fff)) &&
           first != 0 && first != 127 && first < 224 &&
           fold(sum_of((const __u32 *)ip, 5)) == 0xffff;
}

// TTL and DSCP, and what they and the addresses change.
static __always_inline void rewrite_header4(struct iphdr *ip, const struct terms *terms,
                                            __u64 addresses)
{
    __be16 *words = (__be16 *)ip, old;
    __u64 sum = addresses;

    if (terms->flags & DECREMENT_TTL) {
        old = words[4];
        ip->ttl--;
        sum += (__u64)(__u16)~old + words[4];
    }
    if (terms->flags & SET_DSCP) {
        old = words[0];
        ip->tos = terms->dscp << 2 | (ip->tos & 3);
        sum += (__u64)(__u16)~old + words[0];
    }
    ip->check = corrected(ip->check, sum);
}

static __always_inline int drive4(struct xdp_md *context, const struct port *port, __u32 index)
{
    const void *end = (const void *)(long)context->data_end;
    struct iphdr *ip = (void *)(long)context->data + ETH_HLEN;
    __be32 *addresses = (__be32 *)&ip->saddr, new_ends[3];
    __u32 shard = context->rx_queue_index, now;
    struct upper upper = {};
    struct flow4 flow = {};
    struct terms terms;
    struct row4 *row;
    struct hop hop;
    int action;

    if ((void *)(ip + 1) > end || !is_plain4(ip))
        return left(SPECIAL);
    upper.ip_bytes = bpf_ntohs(ip->tot_len);
    upper.bytes = upper.ip_bytes - sizeof(*ip);
    if (upper.ip_bytes < sizeof(*ip) || upper.ip_bytes > end - (void *)ip ||
        !read_upper(ip + 1, end, ip->protocol, &upper))
        return left(SPECIAL);
    flow.network = port->network;
    flow.source = ip->saddr;
    flow.destination = ip->daddr;
    flow.ports = *upper.ports;
    flow.protocol = ip->protocol;
    row = find4(&flow, shard, &terms, new_ends);
    if (!row)
        return left(UNKNOWN);
    now = bpf_ktime_get_coarse_ns() >> 20;
    if (check_terms(&terms, shard, now - row->counted.last_seen) == LEFT_ALONE)
        return LEFT_ALONE;
    if (terms.flags & DECREMENT_TTL && ip->ttl <= 1)
        return left(SPECIAL);
    if (is_partial(&upper, end, sum_of(addresses, 2), ip->protocol))
        return left(PARTIAL);
    action = way_out(&terms, shard, upper.ip_bytes, index, &hop);
    if (action == LEFT_ALONE)
        return LEFT_ALONE;
    __u64 changed = replace(addresses, new_ends, 2);
    rewrite_header4(ip, &terms, changed);
    translate(&upper, new_ends[2], changed);
    count_packet(&row->counted, upper.ip_bytes, now);
    address(context, &hop);
    return action;
}

// Whether the source can be a single host: no group, not ::, not ::1.
static __always_inline bool is_host6(const struct in6_addr *address)
{
    const __be32 *word = address->in6_u.u6_addr32;

    return address->in6_u.u6_addr8[0] != 0xff &&
           (word[0] || word[1] || word[2] || bpf_ntohl(word[3]) > 1);
}

static __always_inline void rewrite_header6(struct ipv6hdr *ip, const struct terms *terms)
{
    __u8 *bytes = (__u8 *)ip;

    if (terms->flags & DECREMENT_TTL)
        ip->hop_limit--;
    if (terms->flags & SET_DSCP) {
        bytes[0] = (bytes[0] & 0xf0) | (terms->dscp >> 2 & 0x0f);
        bytes[1] = terms->dscp << 6 | (bytes[1] & 0x3f);
    }
}

static __always_inline int drive6(struct xdp_md *context, const struct port *port, __u32 index)
{
    const void *end = (const void *)(long)context->data_end;
    struct ipv6hdr *ip = (void *)(long)context->data + ETH_HLEN;
    __be32 *addresses = (__be32 *)&ip->saddr, new_ends[9];
    __u32 shard = context->rx_queue_index, now;
    struct upper upper = {};
    struct flow6 flow = {};
    struct terms terms;
    struct row6 *row;
    struct hop hop;
    int action;

    if ((void *)(ip + 1) > end || ip->version != 6 || !is_host6(&ip->saddr))
        return left(SPECIAL);
    upper.bytes = bpf_ntohs(ip->payload_len);
    upper.ip_bytes = upper.bytes + sizeof(*ip);
    if (upper.ip_bytes > end - (void *)ip || !read_upper(ip + 1, end, ip->nexthdr, &upper))
        return left(SPECIAL);
    flow.network = port->network;
    __builtin_memcpy(flow.source, addresses, 32);
    flow.ports = *upper.ports;
    flow.protocol = ip->nexthdr;
    row = find6(&flow, shard, &terms, new_ends);
    if (!row)
        return left(UNKNOWN);
    now = bpf_ktime_get_coarse_ns() >> 20;
    if (check_terms(&terms, shard, now - row->counted.last_seen) == LEFT_ALONE)
        return LEFT_ALONE;
    if (terms.flags & DECREMENT_TTL && ip->hop_limit <= 1)
        return left(SPECIAL);
    if (is_partial(&upper, end, sum_of(addresses, 8), ip->nexthdr))
        return left(PARTIAL);
    action = way_out(&terms, shard, upper.ip_bytes, index, &hop);
    if (action == LEFT_ALONE)
        return LEFT_ALONE;
    rewrite_header6(ip, &terms);
    translate(&upper, new_ends[8], replace(addresses, new_ends, 8));
    count_packet(&row->counted, upper.ip_bytes, now);
    address(context, &hop);
    return action;
}

static __always_inline bool is_for(const struct ethhdr *ethernet, const struct port *port)
{
    const __u16 *to = (const __u16 *)ethernet->h_dest, *mac = (const __u16 *)port->mac;

    return to[0] == mac[0] && to[1] == mac[1] && to[2] == mac[2];
}

// The place of an interface among the ports, PORTS_MAX when it is none of them.
static __always_inline __u32 place_of(__u32 interface)
{
    __u32 index;

    for (index = 0; index < PORTS_MAX; index++) {
        if (interfaces[index] == interface)
            break;
    }
    return index;
}

SEC("xdp")
int penstock_drive(struct xdp_md *context)
{
    const void *end = (const void *)(long)context->data_end;
    const struct ethhdr *ethernet = (const void *)(long)context->data;
    __u32 index = place_of(context->ingress_ifindex);
    const struct port *port = bpf_map_lookup_elem(&ports, &index);
    int action = LEFT_ALONE;

    // A port that was moved to where nobody made it one.
    if (!port)
        return XDP_PASS;
    if (port->drives && (const void *)(ethernet + 1) <= end && is_for(ethernet, port)) {
        if (ethernet->h_proto == bpf_htons(ETH_P_IP))
            action = drive4(context, port, index);
        else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
            action = drive6(context, port, index);
    }
    if (action != LEFT_ALONE)
        return action;
    bpf_tail_call(context, &steer, index);
    // Every port has its program before this one is attached.
    return XDP_DROP;
}

// A benchmark's peer: every frame out of the other port, with nothing but new Ethernet addresses.
SEC("xdp")
int penstock_redirect(struct xdp_md *context)
{
    void *data = (void *)(long)context->data;
    const void *end = (const void *)(long)context->data_end;
    __u32 key = 0;
    const struct hop *hop = bpf_map_lookup_elem(&hops, &key);

    if (!hop || data + ETH_HLEN > end)
        return XDP_DROP;
    *(__u64 *)data = hop->ethernet;
    *(__u32 *)(data + 8) = hop->ethernet_rest;
    return bpf_redirect_map(&egress, hop->port, XDP_DROP);
}

char licence[] SEC("license") = "Dual MIT/GPL";
