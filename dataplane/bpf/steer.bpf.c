// Which frames of a port are Penstock's.
//
// One instance of this program, with maps of its own, runs on every port. Its order:
//   1. destination is an address of the node   -> kernel
//   2. destination is a service or pool address -> socket
//   3. ARP and neighbour solicitations for a service or pool address -> socket
//   4. destination is a group, a broadcast or link-local -> kernel
//   5. ICMP errors: about a packet of 2 or 6    -> socket, about any other -> kernel
//   6. source is a target's end, or source, destination and protocol are those of a rule -> socket
//   7. everything else                          -> kernel, untouched
// Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. A network header that cannot be read is the
// kernel's. Where only the ports cannot be read, they count as 0, and the shard counts the packet.
//
// A frame for a socket that is not there is dropped: this outlives the process, so nothing answers
// or forwards for our addresses between a kill and a restart.

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Values of `addresses`. Mirrored by `Verdict` in steering.rs.
#define VERDICT_OWN 1
#define VERDICT_OURS 2

// Bits of `presence`. Mirrored in program/maps.rs.
#define PRESENT_TARGETS 1
#define PRESENT_RULES 2
#define SECOND_COPY 4

// Values of `side` in a key of `ranges`. Mirrored in tables.rs.
#define SIDE_SOURCE 0
#define SIDE_DESTINATION 1

// Rules that a port tells apart, a bit each. Mirrored in tables.rs.
#define RULES_MAX 256
#define RULES_WORDS (RULES_MAX / 64)

// Stands for a protocol that cannot be seen: 255 is reserved (IANA). Mirrored in tables.rs.
#define PROTOCOL_HIDDEN 255

// IPv6 extension headers that are followed; RFC 8200 names five kinds, one of them twice.
#define EXTENSIONS_MAX 6
// Bytes of them: a bound that lets the verifier see that the loop stays within a frame.
#define EXTENSION_BYTES_MAX 2048

// Types of ICMP errors (RFC 792) and of ICMPv6 messages (RFC 4443 section 2.1, RFC 4861 section 4.3).
// The kernel's own header for them needs those of a C library.
#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMP6_FIRST_INFORMATIONAL 128
#define ICMP6_NEIGHBOUR_SOLICITATION 135

struct address {
    __u32 word[4];
};

// What ICMP and ICMPv6 messages begin with.
struct icmp {
    __u8 type;
    __u8 code;
    __be16 checksum;
    __be32 rest;
};

// What is looked at, of a packet or of the one that an ICMP error quotes.
struct packet {
    struct address source;
    struct address destination;
    // Where the upper layer begins, or NULL where it cannot be seen: in a later fragment, and
    // behind extension headers that are cut short or too many.
    const void *transport;
    // Of a fragment: its datagram, and unless they are 0, that it is not the first or not the last.
    __u32 identification;
    __u16 is_later;
    __u16 more_follow;
    __be16 source_port;
    __be16 destination_port;
    __u8 version;
    // Of the upper layer.
    __u8 protocol;
};

// A target's ports: the port lies last, so that a prefix of the key is a range of ports.
struct target {
    __u32 prefix_length;
    struct address address;
    __u8 protocol;
    __u8 zero;
    __be16 port;
};

// A range of addresses at one side of some rules.
struct range {
    __u32 prefix_length;
    __u8 copy;
    __u8 side;
    __u8 version;
    __u8 zero;
    struct address address;
};

// A set of rules.
struct rules {
    __u64 word[RULES_WORDS];
};

// What the fragments of one datagram have in common.
struct datagram {
    struct address source;
    struct address destination;
    __u32 identification;
    __u32 protocol;
};

// The default sizes here are overridden at load.
struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 64);
    __type(key, __u32);
    __type(value, __u32);
} sockets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, struct address);
    __type(value, __u8);
} addresses SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 4096);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct target);
    __type(value, __u8);
} targets SEC(".maps");

// The rules of which an address can be the source or the destination. A lookup finds the longest
// range only, so each range names the rules of all wider ranges around it as well.
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct range);
    __type(value, struct rules);
} ranges SEC(".maps");

// The rules of each protocol: 256 entries of the first copy, then as many of the second.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 512);
    __type(key, __u32);
    __type(value, struct rules);
} protocols SEC(".maps");

// Which tables hold anything, so that an empty one costs no lookup; and which copy of the rules
// counts. A change writes the other copy, and puts it in force by this one word.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} presence SEC(".maps");

// Datagrams from a target's address whose first fragment came from no port of the target.
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct datagram);
    __type(value, __u8);
} strangers SEC(".maps");

static __always_inline int to_socket(struct xdp_md *context)
{
    return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_DROP);
}

static __always_inline struct address from_ipv4(__be32 address)
{
    struct address mapped = {{0, 0, bpf_htonl(0xffff), address}};
    return mapped;
}

static __always_inline struct address from_ipv6(const struct in6_addr *address)
{
    struct address copy = {{address->in6_u.u6_addr32[0], address->in6_u.u6_addr32[1],
                            address->in6_u.u6_addr32[2], address->in6_u.u6_addr32[3]}};
    return copy;
}

// Reads an IPv4 header. False when there is none.
static __always_inline bool read_ipv4(const struct iphdr *ip, const void *end,
                                      struct packet *packet)
{
    __u16 fragment;

    if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
        return false;
    fragment = bpf_ntohs(ip->frag_off);
    packet->source = from_ipv4(ip->saddr);
    packet->destination = from_ipv4(ip->daddr);
    packet->version = 4;
    packet->protocol = ip->protocol;
    packet->identification = ip->id;
    packet->is_later = fragment & 0x1fff;
    packet->more_follow = fragment & 0x2000;
    packet->transport = packet->is_later ? NULL : (const void *)ip + ip->ihl * 4;
    return true;
}

static __always_inline bool is_extension(__u8 protocol)
{
    return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
           protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_AH || protocol == IPPROTO_FRAGMENT;
}

// `length` is the header's second byte.
static __always_inline __u32 extension_bytes(__u8 protocol, __u8 length)
{
    if (protocol == IPPROTO_FRAGMENT)
        return 8;
    return protocol == IPPROTO_AH ? (length + 2) * 4 : (length + 1) * 8;
}

// Reads a fragment header.
static __always_inline void read_fragment(const __u8 *header, struct packet *packet)
{
    __u16 fragment = header[2] << 8 | header[3];

    __builtin_memcpy(&packet->identification, header + 4, sizeof(packet->identification));
    packet->is_later = fragment & 0xfff8;
    packet->more_follow = fragment & 1;
}

// Follows extension headers from `transport` to the upper layer.
static __always_inline void read_extensions(struct packet *packet, const void *end)
{
    const __u8 *first = packet->transport, *header;
    __u32 offset = 0;
    int count;

    packet->transport = NULL;
    for (count = 0; count < EXTENSIONS_MAX && is_extension(packet->protocol); count++) {
        header = first + offset;
        if ((const void *)(header + 8) > end)
            break;
        if (packet->protocol == IPPROTO_FRAGMENT)
            read_fragment(header, packet);
        offset += extension_bytes(packet->protocol, header[1]);
        packet->protocol = header[0];
        if (packet->is_later || offset > EXTENSION_BYTES_MAX)
            break;
    }
    if (is_extension(packet->protocol) || offset > EXTENSION_BYTES_MAX)
        packet->protocol = PROTOCOL_HIDDEN;
    else if (!packet->is_later)
        packet->transport = first + offset;
}

// Reads an IPv6 header, as if nothing extended it. False when there is none.
static __always_inline bool read_ipv6(const struct ipv6hdr *ip, const void *end,
                                      struct packet *packet)
{
    if ((const void *)(ip + 1) > end || ip->version != 6)
        return false;
    packet->source = from_ipv6(&ip->saddr);
    packet->destination = from_ipv6(&ip->daddr);
    packet->version = 6;
    packet->protocol = ip->nexthdr;
    packet->transport = ip + 1;
    return true;
}

static __always_inline void read_ports(struct packet *packet, const void *end)
{
    const __be16 *ports = packet->transport;

    if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP)
        return;
    if (!ports || (const void *)(ports + 2) > end)
        return;
    packet->source_port = ports[0];
    packet->destination_port = ports[1];
}

static __always_inline int verdict(const struct address *address)
{
    const __u8 *found = bpf_map_lookup_elem(&addresses, address);

    return found ? *found : 0;
}

static __always_inline __u32 present(void)
{
    __u32 key = 0;
    const __u32 *bits = bpf_map_lookup_elem(&presence, &key);

    return bits ? *bits : 0;
}

static __always_inline bool is_target(const struct packet *packet, __be16 port)
{
    struct target key = {
        .prefix_length = 160,
        .address = packet->source,
        .protocol = packet->protocol,
        .port = port,
    };

    return bpf_map_lookup_elem(&targets, &key) != NULL;
}

// Whether a packet comes from a target. Port 0 of a target stands for its later fragments, which
// carry no port: they are ours unless their first one was seen and came from another port. So one
// that overtakes its first is ours, and the shard waits for the first.
static __always_inline bool is_from_target(const struct packet *packet)
{
    bool ours = is_target(packet, packet->source_port);
    struct datagram datagram = {
        .source = packet->source,
        .destination = packet->destination,
        .identification = packet->identification,
        // Later fragments of IPv6 do not say it reliably (RFC 8200 section 4.5).
        .protocol = packet->version == 4 ? packet->protocol : 0,
    };
    const __u8 present = 1;

    if (packet->is_later)
        return ours && !bpf_map_lookup_elem(&strangers, &datagram);
    if (packet->more_follow && ours)
        bpf_map_delete_elem(&strangers, &datagram);
    else if (packet->more_follow && is_target(packet, 0))
        bpf_map_update_elem(&strangers, &datagram, &present, BPF_ANY);
    return ours;
}

static __always_inline const struct rules *rules_of(const struct address *address, __u8 version,
                                                    __u8 side, __u8 copy)
{
    struct range key = {
        .prefix_length = 160,
        .copy = copy,
        .side = side,
        .version = version,
        .address = *address,
    };

    return bpf_map_lookup_elem(&ranges, &key);
}

// Whether there is a rule of a packet's source, its destination and its protocol.
static __always_inline bool is_ruled(const struct packet *packet, __u32 bits)
{
    __u8 copy = bits & SECOND_COPY ? 1 : 0;
    __u32 protocol = copy * 256 + packet->protocol;
    const struct rules *here, *there, *with;
    int word;

    here = rules_of(&packet->source, packet->version, SIDE_SOURCE, copy);
    if (!here)
        return false;
    there = rules_of(&packet->destination, packet->version, SIDE_DESTINATION, copy);
    if (!there)
        return false;
    with = bpf_map_lookup_elem(&protocols, &protocol);
    if (!with)
        return false;
    for (word = 0; word < RULES_WORDS; word++) {
        if (here->word[word] & there->word[word] & with->word[word])
            return true;
    }
    return false;
}

static __always_inline bool is_source_ours(const struct packet *packet, __u32 bits)
{
    if (bits & PRESENT_TARGETS && is_from_target(packet))
        return true;
    return bits & PRESENT_RULES && is_ruled(packet, bits);
}

static __always_inline bool is_error(const struct packet *packet, const void *end)
{
    const struct icmp *icmp = packet->transport;

    if (!icmp || (const void *)(icmp + 1) > end)
        return false;
    if (packet->version == 6)
        return packet->protocol == IPPROTO_ICMPV6 && icmp->type < ICMP6_FIRST_INFORMATIONAL;
    return packet->protocol == IPPROTO_ICMP &&
           (icmp->type == ICMP_UNREACHABLE || icmp->type == ICMP_TIME_EXCEEDED ||
            icmp->type == ICMP_PARAMETER_PROBLEM);
}

// Whether the packet that an ICMP error quotes is one that we translated.
static __always_inline bool is_error_ours(const struct packet *error, const void *end, __u32 bits)
{
    const void *inner = error->transport + sizeof(struct icmp);
    struct packet quote = {}, answer = {};

    if (!(error->version == 4 ? read_ipv4(inner, end, &quote) : read_ipv6(inner, end, &quote)))
        return false;
    if (verdict(&quote.source) == VERDICT_OURS || verdict(&quote.destination) == VERDICT_OURS)
        return true;
    // We sent it to an end whose own packets are ours: those that answer it.
    if (is_extension(quote.protocol))
        quote.protocol = PROTOCOL_HIDDEN;
    read_ports(&quote, end);
    answer.source = quote.destination;
    answer.destination = quote.source;
    answer.source_port = quote.destination_port;
    answer.version = quote.version;
    answer.protocol = quote.protocol;
    return bits && is_source_ours(&answer, bits);
}

// A neighbour solicitation's target lies behind the ICMPv6 header.
static __always_inline bool is_solicitation_ours(const struct packet *packet, const void *end)
{
    const struct icmp *icmp = packet->transport;
    const struct in6_addr *target = (const void *)(icmp + 1);
    struct address address;

    if (packet->version != 6 || packet->protocol != IPPROTO_ICMPV6 || !icmp)
        return false;
    if ((const void *)(target + 1) > end || icmp->type != ICMP6_NEIGHBOUR_SOLICITATION)
        return false;
    address = from_ipv6(target);
    return verdict(&address) == VERDICT_OURS;
}

// Whether a packet goes to one station that may be far away.
static __always_inline bool is_far(const struct packet *packet)
{
    __u32 first = bpf_ntohl(packet->destination.word[0]);
    __u32 last = bpf_ntohl(packet->destination.word[3]);

    if (packet->version == 6)
        return first >> 24 != 0xff && (first >> 16 & 0xffc0) != 0xfe80;
    return last < 0xe0000000 && last >> 16 != 0xa9fe && last != 0;
}

static __always_inline int steer(struct xdp_md *context, struct packet *packet, const void *end)
{
    int found = verdict(&packet->destination);
    bool ours;
    __u32 bits;

    if (found)
        return found == VERDICT_OURS ? to_socket(context) : XDP_PASS;
    if (is_solicitation_ours(packet, end))
        return to_socket(context);
    if (!is_far(packet))
        return XDP_PASS;

    bits = present();
    if (is_error(packet, end)) {
        ours = is_error_ours(packet, end, bits);
    } else {
        read_ports(packet, end);
        ours = bits && is_source_ours(packet, bits);
    }
    return ours ? to_socket(context) : XDP_PASS;
}

// ARP for IPv4 over Ethernet, RFC 826.
struct arp_packet {
    __be16 hardware;
    __be16 protocol;
    __u8 hardware_length;
    __u8 protocol_length;
    __be16 operation;
    __u8 sender_mac[ETH_ALEN];
    __u8 sender[4];
    __u8 target_mac[ETH_ALEN];
    __be16 target[2];
} __attribute__((packed));

static __always_inline int steer_arp(struct xdp_md *context, const struct arp_packet *arp,
                                     const void *end)
{
    struct address address;
    __be32 target;

    if ((const void *)(arp + 1) > end || arp->protocol != bpf_htons(ETH_P_IP))
        return XDP_PASS;
    __builtin_memcpy(&target, arp->target, sizeof(target));
    address = from_ipv4(target);
    return verdict(&address) == VERDICT_OURS ? to_socket(context) : XDP_PASS;
}

SEC("xdp")
int penstock_steer(struct xdp_md *context)
{
    const void *end = (void *)(long)context->data_end;
    const struct ethhdr *ethernet = (void *)(long)context->data;
    struct packet packet = {};

    if ((const void *)(ethernet + 1) > end)
        return XDP_PASS;
    switch (ethernet->h_proto) {
    case bpf_htons(ETH_P_IP):
        if (!read_ipv4((const void *)(ethernet + 1), end, &packet))
            return XDP_PASS;
        return steer(context, &packet, end);
    case bpf_htons(ETH_P_IPV6):
        if (!read_ipv6((const void *)(ethernet + 1), end, &packet))
            return XDP_PASS;
        read_extensions(&packet, end);
        return steer(context, &packet, end);
    case bpf_htons(ETH_P_ARP):
        return steer_arp(context, (const void *)(ethernet + 1), end);
    default:
        return XDP_PASS;
    }
}

// The benchmark's peer: every frame to the socket, nothing looked at.
SEC("xdp")
int penstock_bare(struct xdp_md *context)
{
    return to_socket(context);
}

char licence[] SEC("license") = "Dual MIT/GPL";
