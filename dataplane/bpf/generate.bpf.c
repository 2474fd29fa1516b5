// The two ends of a benchmark: a generator and a sink.
//
// `penstock_generate` is run by BPF_PROG_TEST_RUN with live frames. The kernel recycles the pages
// of its frames as their receiver left them, so every header of every frame is written anew. Frames
// are redirected to the first entry of `leave`.
//
// `penstock_sink` counts what comes in, checks it and drops it. `penstock_reflect` sends it back.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Bytes of Ethernet, IPv4 and the largest of UDP, TCP and ICMP: what is written into every frame.
#define HEADERS_BYTES 54

// Of the packets of 60 bytes one in this many has its UDP checksum checked as well.
#define SPOT_CHECK 64

// A latency is counted in bucket (log2, three more bits) of its nanoseconds.
#define BUCKETS 512

// What to send. Mirrored by `Order` in generator.rs.
struct order {
    __u8 headers[HEADERS_BYTES + 2];
    // Sums over the constant parts, addresses and ports left out, in network byte order.
    __u32 network_sum;
    __u32 transport_sum;
    // In host byte order: where the sequence begins.
    __u32 source;
    __u32 destination;
    __u32 source_port;
    __u32 destination_port;
    // Flow n of `flows` has port n % ports and address n / ports, added at one end.
    __u32 flows;
    __u32 ports;
    __u32 stride;
    __u32 vary_destination;
    // UDP if not 0, else TCP.
    __u32 is_udp;
    // Unless 0: every so many packets one is of a flow that there was not before.
    __u32 fresh_every;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct order);
} orders SEC(".maps");

// Index of the next flow. One thread generates.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} position SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} leave SEC(".maps");

// Mirrored by `Counts` in generator.rs.
struct counts {
    __u64 packets;
    __u64 bytes;
    __u64 bad_network_checksum;
    __u64 bad_transport_checksum;
    __u64 transport_checked;
    // Packets whose number had come before.
    __u64 again;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct counts);
} counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, BUCKETS);
    __type(key, __u32);
    __type(value, __u64);
} latencies SEC(".maps");

// Which numbers of packets have come, a bit each, and how often one came again.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 65536);
    __type(key, __u32);
    __type(value, __u64);
} arrived SEC(".maps");

// Set by the loader: whether packets carry a time stamp and their number behind their UDP header.
const volatile __u32 stamped = 0;

static __always_inline __u16 fold(__u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static __always_inline __u32 halves(__be32 word)
{
    return (word & 0xffff) + (word >> 16);
}

static __always_inline void write_headers(struct iphdr *ip, __u8 *transport,
                                          const struct order *order, __u32 flow)
{
    __u32 source = order->source, destination = order->destination;
    __u32 source_port = order->source_port, destination_port = order->destination_port;
    __be16 *ports = (__be16 *)transport;
    __u32 addresses;
    __u16 sum;

    if (order->vary_destination) {
        destination += flow / order->ports;
        destination_port += flow % order->ports;
    } else {
        source += flow / order->ports;
        source_port += flow % order->ports;
    }
    ip->saddr = bpf_htonl(source);
    ip->daddr = bpf_htonl(destination);
    addresses = halves(ip->saddr) + halves(ip->daddr);
    ip->check = ~fold(order->network_sum + addresses);
    ports[0] = bpf_htons(source_port);
    ports[1] = bpf_htons(destination_port);
    sum = ~fold(order->transport_sum + addresses + ports[0] + ports[1]);
    // Zero means "no checksum" in UDP, and equals its opposite in the sum.
    if (order->is_udp)
        ports[3] = sum ? sum : 0xffff;
    else
        ports[8] = sum;
}

SEC("xdp")
int penstock_generate(struct xdp_md *context)
{
    void *data = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;
    const struct order *order;
    __u64 *next;
    __u32 key = 0, flow;
    __u64 number;

    order = bpf_map_lookup_elem(&orders, &key);
    next = bpf_map_lookup_elem(&position, &key);
    if (!order || !next || data + HEADERS_BYTES > end || !order->flows || !order->ports)
        return XDP_DROP;
    number = *next;
    *next = number + 1;
    flow = number * order->stride % order->flows;
    if (order->fresh_every && number % order->fresh_every == 0)
        flow = order->flows + number / order->fresh_every;
    __builtin_memcpy(data, order->headers, HEADERS_BYTES);
    write_headers(data + sizeof(struct ethhdr),
                  data + sizeof(struct ethhdr) + sizeof(struct iphdr), order, flow);
    return bpf_redirect_map(&leave, 0, XDP_DROP);
}

static __always_inline void check_network(const struct iphdr *ip, struct counts *count)
{
    const __u16 *half = (const __u16 *)ip;
    __u32 sum = 0;
    int index;

    for (index = 0; index < 10; index++)
        sum += half[index];
    if (fold(sum) != 0xffff)
        count->bad_network_checksum++;
}

// UDP in a frame of exactly 60 bytes: 46 of IPv4, so 26 of UDP.
static __always_inline void check_transport(const struct iphdr *ip, const void *end,
                                            struct counts *count)
{
    const __u16 *half = (const __u16 *)(ip + 1);
    __u32 sum = halves(ip->saddr) + halves(ip->daddr);
    int index;

    if (ip->protocol != IPPROTO_UDP || ip->tot_len != bpf_htons(46) ||
        (const void *)(half + 13) > end)
        return;
    sum += bpf_htons(IPPROTO_UDP) + bpf_htons(26);
    for (index = 0; index < 13; index++)
        sum += half[index];
    count->transport_checked++;
    if (!half[3] || fold(sum) != 0xffff)
        count->bad_transport_checksum++;
}

static __always_inline void count_latency(const struct iphdr *ip, const void *end)
{
    const struct udphdr *udp = (const void *)(ip + 1);
    const __u64 *stamp = (const void *)(udp + 1);
    __u64 nanoseconds, *bucket;
    __u32 index = 0, shift;

    if ((const void *)(stamp + 1) > end)
        return;
    nanoseconds = bpf_ktime_get_ns() - *stamp;
    for (shift = 0; shift < 60 && nanoseconds >> shift >= 16; shift++)
        ;
    index = shift * 8 + (nanoseconds >> shift & 15);
    bucket = bpf_map_lookup_elem(&latencies, &index);
    if (bucket)
        (*bucket)++;
}

// A packet's number stands behind its stamp.
static __always_inline void note_arrival(const struct iphdr *ip, const void *end,
                                         struct counts *count)
{
    const struct udphdr *udp = (const void *)(ip + 1);
    const __u64 *stamp = (const void *)(udp + 1), *number = stamp + 1;
    __u64 *word, bit;
    __u32 index;

    if ((const void *)(number + 1) > end)
        return;
    index = *number / 64;
    bit = 1ull << (*number & 63);
    word = bpf_map_lookup_elem(&arrived, &index);
    if (!word)
        return;
    if (*word & bit)
        count->again++;
    // One packet at a time: there is one queue.
    *word |= bit;
}

SEC("xdp")
int penstock_sink(struct xdp_md *context)
{
    void *data = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;
    const struct ethhdr *ethernet = data;
    const struct iphdr *ip = data + sizeof(*ethernet);
    struct counts *count;
    __u32 key = 0;

    if (data + sizeof(*ethernet) + sizeof(*ip) > end)
        return XDP_PASS;
    // Neighbours are still to be found through this port.
    if (ethernet->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 ||
        (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP))
        return XDP_PASS;
    count = bpf_map_lookup_elem(&counts, &key);
    if (!count)
        return XDP_DROP;
    count->packets++;
    count->bytes += end - data;
    check_network(ip, count);
    if (count->packets % SPOT_CHECK == 0)
        check_transport(ip, end, count);
    if (stamped) {
        count_latency(ip, end);
        note_arrival(ip, end, count);
    }
    return XDP_DROP;
}

// Sends UDP packets over IPv4 back to where they came from; sums do not change when ends change
// places. All else goes to the kernel.
SEC("xdp")
int penstock_reflect(struct xdp_md *context)
{
    void *data = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = data;
    struct iphdr *ip = data + sizeof(*ethernet);
    struct udphdr *udp = (void *)(ip + 1);
    __u8 mac[ETH_ALEN];
    __be32 address;
    __be16 port;

    if ((void *)(udp + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 ||
        ip->protocol != IPPROTO_UDP)
        return XDP_PASS;
    __builtin_memcpy(mac, ethernet->h_dest, ETH_ALEN);
    __builtin_memcpy(ethernet->h_dest, ethernet->h_source, ETH_ALEN);
    __builtin_memcpy(ethernet->h_source, mac, ETH_ALEN);
    address = ip->daddr;
    ip->daddr = ip->saddr;
    ip->saddr = address;
    port = udp->dest;
    udp->dest = udp->source;
    udp->source = port;
    return XDP_TX;
}

char licence[] SEC("license") = "Dual MIT/GPL";
