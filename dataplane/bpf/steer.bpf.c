// Which frames of a port are Penstock's.
//
// One instance of this program, with maps of its own, runs on every port. Its order:
//   1. destination is an address of the node   -> kernel
//   2. destination is a service or pool address -> socket
//   3. source is a target or in a translated range, destination is one station -> socket
//   4. ARP and neighbour solicitations for a service or pool address -> socket
//   5. ICMP errors about a packet of 2 or 3     -> socket
//   6. everything else                          -> kernel, untouched
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

// Bits of `presence`. Mirrored in steering.rs.
#define PRESENT_TARGETS 1
#define PRESENT_RANGES 2

// IPv6 extension headers that are followed before a packet is left to the kernel.
#define EXTENSIONS_MAX 6

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

struct target {
    struct address address;
    __be16 port;
    __u8 protocol;
    __u8 zero;
};

struct range {
    __u32 prefix_length;
    struct address address;
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
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, struct target);
    __type(value, __u8);
} targets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct range);
    __type(value, __u8);
} ranges SEC(".maps");

// Which of `targets` and `ranges` hold anything, so that an empty one costs no lookup.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} presence SEC(".maps");

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

static __always_inline bool is_target(const struct address *address, __be16 port, __u8 protocol)
{
    struct target key = {.address = *address, .port = port, .protocol = protocol};

    return bpf_map_lookup_elem(&targets, &key) != NULL;
}

static __always_inline bool is_in_range(const struct address *address)
{
    struct range key = {.prefix_length = 128, .address = *address};

    return bpf_map_lookup_elem(&ranges, &key) != NULL;
}

static __always_inline bool is_source_ours(const struct address *source, __be16 port,
                                           __u8 protocol, __u32 bits)
{
    if (bits & PRESENT_TARGETS && is_target(source, port, protocol))
        return true;
    return bits & PRESENT_RANGES && is_in_range(source);
}

// The first two bytes behind the network header: the source port of TCP and UDP.
static __always_inline __be16 source_port(const void *transport, const void *end, __u8 protocol)
{
    const __be16 *port = transport;

    if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
        return 0;
    return (const void *)(port + 1) > end ? 0 : *port;
}

static __always_inline __be16 destination_port(const void *transport, const void *end,
                                               __u8 protocol)
{
    const __be16 *ports = transport;

    if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
        return 0;
    return (const void *)(ports + 2) > end ? 0 : ports[1];
}

// Whether a packet quoted in an ICMP error is one that we translated.
static __always_inline bool is_quote_ours(const struct address *source,
                                          const struct address *destination, __be16 port,
                                          __u8 protocol, __u32 bits)
{
    if (verdict(source) == VERDICT_OURS || verdict(destination) == VERDICT_OURS)
        return true;
    // The error is about what we sent to an end whose own packets are ours.
    return is_source_ours(destination, port, protocol, bits);
}

static __always_inline bool is_error_ours4(const struct icmp *icmp, const void *end, __u32 bits)
{
    const struct iphdr *inner = (const void *)(icmp + 1);
    struct address source, destination;
    __be16 port;

    if ((const void *)inner > end)
        return false;
    if (icmp->type != ICMP_UNREACHABLE && icmp->type != ICMP_TIME_EXCEEDED &&
        icmp->type != ICMP_PARAMETER_PROBLEM)
        return false;
    if ((const void *)(inner + 1) > end || inner->version != 4 || inner->ihl < 5)
        return false;
    source = from_ipv4(inner->saddr);
    destination = from_ipv4(inner->daddr);
    port = destination_port((const void *)inner + inner->ihl * 4, end, inner->protocol);
    return is_quote_ours(&source, &destination, port, inner->protocol, bits);
}

static __always_inline bool is_station4(__be32 destination)
{
    __u32 address = bpf_ntohl(destination);

    return address < 0xe0000000 && (address >> 16) != 0xa9fe && address != 0;
}

static __always_inline int steer_ipv4(struct xdp_md *context, const struct iphdr *ip,
                                      const void *end)
{
    struct address address;
    const void *transport;
    bool later;
    int found;
    __u32 bits;

    if ((const void *)(ip + 1) > end || ip->version != 4)
        return XDP_PASS;
    address = from_ipv4(ip->daddr);
    found = verdict(&address);
    if (found)
        return found == VERDICT_OURS ? to_socket(context) : XDP_PASS;
    if (ip->ihl < 5 || !is_station4(ip->daddr))
        return XDP_PASS;

    bits = present();
    later = ip->frag_off & bpf_htons(0x1fff);
    transport = (const void *)ip + ip->ihl * 4;
    address = from_ipv4(ip->saddr);
    if (bits && is_source_ours(&address, later ? 0 : source_port(transport, end, ip->protocol),
                               ip->protocol, bits))
        return to_socket(context);
    if (ip->protocol == IPPROTO_ICMP && !later && is_error_ours4(transport, end, bits))
        return to_socket(context);
    return XDP_PASS;
}

// Follows extension headers from `cursor`. Returns where the upper layer begins, or NULL when the
// chain is cut short or longer than we follow.
static __always_inline const void *skip_extensions(const void *cursor, const void *end,
                                                   __u8 *protocol, bool *later)
{
    const __u8 *header;
    int count;

    for (count = 0; count < EXTENSIONS_MAX; count++) {
        header = cursor;
        switch (*protocol) {
        case IPPROTO_HOPOPTS:
        case IPPROTO_ROUTING:
        case IPPROTO_DSTOPTS:
            if ((const void *)(header + 8) > end)
                return NULL;
            *protocol = header[0];
            cursor += (header[1] + 1) * 8;
            break;
        case IPPROTO_FRAGMENT:
            if ((const void *)(header + 8) > end)
                return NULL;
            *protocol = header[0];
            cursor += 8;
            if (header[2] || header[3] & 0xf8) {
                *later = true;
                return cursor;
            }
            break;
        default:
            return cursor;
        }
    }
    return NULL;
}

static __always_inline bool is_error_ours6(const struct icmp *icmp, const void *end,
                                           __u32 bits)
{
    const struct ipv6hdr *inner = (const void *)(icmp + 1);
    struct address source, destination;

    if ((const void *)(inner + 1) > end || icmp->type >= ICMP6_FIRST_INFORMATIONAL ||
        inner->version != 6)
        return false;
    source = from_ipv6(&inner->saddr);
    destination = from_ipv6(&inner->daddr);
    return is_quote_ours(&source, &destination,
                         destination_port(inner + 1, end, inner->nexthdr), inner->nexthdr, bits);
}

// A neighbour solicitation's target lies behind the ICMPv6 header.
static __always_inline bool is_solicitation_ours(const struct icmp *icmp, const void *end)
{
    const struct in6_addr *target = (const void *)(icmp + 1);
    struct address address;

    if ((const void *)(target + 1) > end || icmp->type != ICMP6_NEIGHBOUR_SOLICITATION)
        return false;
    address = from_ipv6(target);
    return verdict(&address) == VERDICT_OURS;
}

static __always_inline bool is_station6(const struct address *address)
{
    __u16 top = bpf_ntohl(address->word[0]) >> 16;

    return (top >> 8) != 0xff && (top & 0xffc0) != 0xfe80;
}

static __always_inline int steer_ipv6(struct xdp_md *context, const struct ipv6hdr *ip,
                                      const void *end)
{
    struct address source, destination;
    const void *transport;
    bool later = false;
    __u8 protocol;
    __u32 bits;
    int found;

    if ((const void *)(ip + 1) > end || ip->version != 6)
        return XDP_PASS;
    destination = from_ipv6(&ip->daddr);
    found = verdict(&destination);
    if (found)
        return found == VERDICT_OURS ? to_socket(context) : XDP_PASS;
    protocol = ip->nexthdr;
    transport = skip_extensions(ip + 1, end, &protocol, &later);
    // A chain that cannot be followed hides the ports, as a later fragment does.
    if (!transport)
        later = true;
    if (protocol == IPPROTO_ICMPV6 && !later && is_solicitation_ours(transport, end))
        return to_socket(context);
    if (!is_station6(&destination))
        return XDP_PASS;

    bits = present();
    source = from_ipv6(&ip->saddr);
    if (bits && is_source_ours(&source, later ? 0 : source_port(transport, end, protocol),
                               protocol, bits))
        return to_socket(context);
    if (protocol == IPPROTO_ICMPV6 && !later && is_error_ours6(transport, end, bits))
        return to_socket(context);
    return XDP_PASS;
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

    if ((const void *)(ethernet + 1) > end)
        return XDP_PASS;
    switch (ethernet->h_proto) {
    case bpf_htons(ETH_P_IP):
        return steer_ipv4(context, (const void *)(ethernet + 1), end);
    case bpf_htons(ETH_P_IPV6):
        return steer_ipv6(context, (const void *)(ethernet + 1), end);
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
