// The relay's shortcut through the kernel: ChannelData to plain UDP and back, and from one
// client's ChannelData to another's, also where IPv4 becomes IPv6 or the other way about. User space
// says with its entries what may pass, and until when. Everything that is not exactly what an entry
// describes goes on to user space unmodified.
//
// Built by Debian's clang 14; relay.bpf.o is committed and a test compares:
//     clang -O2 -target bpf -I/usr/include/$(uname -m)-linux-gnu -c relay.bpf.c -o relay.bpf.o
// layout.py has the structures of this file, object.py reads what comes of it.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>
#include <linux/udp.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define SWAP16(number) ((__u16)__builtin_bswap16(number))
#define SWAP32(number) __builtin_bswap32(number)

#define ON_WITH_IT -1 // TCX_NEXT, TC_ACT_UNSPEC: the next program, then the stack
#define DROP 2        // TCX_DROP, TC_ACT_SHOT

#define CHANNEL_HEADER 4 // RFC 8656 Section 12.4: channel number and length
#define LARGEST 4096     // of a packet, bytes; larger ones are user space's
#define HEADROOM 32      // for an IP header that is longer than the one that came
#define UDP_IN_IPV4 (sizeof(struct ethhdr) + sizeof(struct iphdr))
#define UDP_IN_IPV6 (sizeof(struct ethhdr) + sizeof(struct ipv6hdr))
// After a burst that user space relays, so that no packet overtakes it: 10 ms, and as much as the
// clock may be late, in nanoseconds.
#define HOLD 20000000

// <linux/bpf.h> has these by name; only the BTF way of calling them is not used.
static void *(*const map_lookup)(void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
// Late by a tick of the kernel, which is 10 ms at most, and much cheaper to read in a virtual
// machine. Before Linux 5.11 program.py puts ktime_get_ns in its place.
static __u64 (*const ktime)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*const load)(void *, __u32, void *, __u32) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const store)(void *, __u32, const void *, __u32, __u64) =
    (void *)BPF_FUNC_skb_store_bytes;
static long (*const change_tail)(void *, __u32, __u64) = (void *)BPF_FUNC_skb_change_tail;
static long (*const change_proto)(void *, __be16, __u64) = (void *)BPF_FUNC_skb_change_proto;
static __u32 (*const random)(void) = (void *)BPF_FUNC_get_prandom_u32;
static long (*const replace_sum)(void *, __u32, __u64, __u64, __u64) =
    (void *)BPF_FUNC_l4_csum_replace;
static __s64 (*const update_sum)(void *, __u32) = (void *)BPF_FUNC_csum_update;
static long (*const redirect)(__u32, const struct bpf_redir_neigh *, int, __u64) =
    (void *)BPF_FUNC_redirect_neigh;

struct map {
    __u32 type, key_size, value_size, max_entries, flags;
};

// Addresses and ports as in the packet; an IPv4 address fills the first four bytes.
struct ends {
    __u8 source[16], destination[16];
    __be16 source_port, destination_port;
};

struct key {
    struct ends ends;
    __be16 channel; // 0: plain UDP from a peer
    __u8 version;   // 4 or 6
    __u8 zero;
};

struct entry {
    __u64 expires_at; // CLOCK_MONOTONIC, nanoseconds
    struct ends ends;
    __be16 channel; // 0: plain UDP to a peer
    __u16 mtu;      // of the way out
    __u32 count;    // which of the counts is its own
    __u32 in, out;  // interfaces; out 0: the destination is this machine
    // What the rewriting adds to Internet checksums, of all that is the same in every packet.
    __u32 ip_sum;     // to the header of IPv4 or IPv6
    __u32 pseudo_sum; // to the pseudo-header of UDP
    __u32 udp_sum;    // to UDP's header and payload
    // Which of the allowances its packets are taken from, all that are named; 0: none.
    __u32 allowances[2];
    struct bpf_redir_neigh next_hop; // or the kernel would look for the route of each packet
    // 0: the IP version stays. Else what the new header begins with, but for the traffic class, and
    // ip_sum is the sum of its addresses.
    __be32 version_and_label;
};

struct count {
    __u64 packets, bytes; // of payload
    __u64 held_until;     // as expires_at
};

// Of one allocation, whatever entries it has. User space writes the limits, and nobody but this
// program the counts. Where two processors are in here at once each lets one more packet pass.
struct allowance {
    __u64 packet_limit, byte_limit; // so much in its counts, and user space decides again
    __u64 packets, bytes;           // of payload
};

SECTION("maps") struct map entries = {
    BPF_MAP_TYPE_HASH, sizeof(struct key), sizeof(struct entry), 65536, BPF_F_NO_PREALLOC};
// By themselves, so that an entry can be replaced without losing what is being counted.
SECTION("maps") struct map counts = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct count), 65536, 0};
// What user space has mapped takes no call to be read and written.
SECTION("maps") struct map allowances = {
    BPF_MAP_TYPE_ARRAY, 4, sizeof(struct allowance), 65536, BPF_F_MMAPABLE};
SECTION("maps") struct map scratch = {BPF_MAP_TYPE_PERCPU_ARRAY, 4, LARGEST + 128, 1, 0};

INLINE __u16 add_to_sum(__u16 sum, __u32 difference)
{
    __u64 total = (__u64)(__u16)~sum + difference;
    total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    return ~total;
}

INLINE int is_used_up(struct allowance *of, __u64 length)
{
    return of && (of->packets >= of->packet_limit || of->bytes + length > of->byte_limit);
}

INLINE void take(struct allowance *of, __u64 length)
{
    if (of) {
        __sync_fetch_and_add(&of->packets, 1);
        __sync_fetch_and_add(&of->bytes, length);
    }
}

// Whether the checksum is right. Where the header stays that is found out by who gets it.
INLINE int is_intact(const struct iphdr *ip)
{
    const __u16 *word = (const void *)ip;
    return add_to_sum(0xffff, (__u32)word[0] + word[1] + word[2] + word[3] + word[4] + word[5] +
                                  word[6] + word[7] + word[8] + word[9]) == 0;
}

// Write the IP header of the other version in front of UDP, where the old one is: RFC 8656
// Section 13.1, with RFC 7915 Section 4.1 for traffic class and hop limit.
INLINE void become_ipv6(struct udphdr *udp, const struct entry *entry)
{
    const struct iphdr *old = (const void *)((__u8 *)udp - sizeof(*old));
    struct ipv6hdr *ip = (void *)((__u8 *)udp - sizeof(*ip));
    __u8 traffic_class = old->tos, hops = old->ttl;
    *(__be32 *)ip = entry->version_and_label | SWAP32((__u32)traffic_class << 20);
    ip->payload_len = udp->len;
    ip->nexthdr = IPPROTO_UDP;
    ip->hop_limit = hops - 1;
    __builtin_memcpy(&ip->saddr, entry->ends.source, 16);
    __builtin_memcpy(&ip->daddr, entry->ends.destination, 16);
}

// The same the other way about: RFC 8656 Section 13.3, with RFC 7915 Section 5.1 for type of service
// and time to live. Routers may fragment it (the alternate behaviour), as what user space sends.
INLINE void become_ipv4(struct udphdr *udp, const struct entry *entry)
{
    const struct ipv6hdr *old = (const void *)((__u8 *)udp - sizeof(*old));
    struct iphdr *ip = (void *)((__u8 *)udp - sizeof(*ip));
    __u16 *word = (void *)ip;
    __u8 traffic_class = SWAP16(*(__be16 *)old) >> 4, hops = old->hop_limit;
    word[0] = entry->version_and_label | SWAP16((__u16)traffic_class);
    ip->tot_len = SWAP16(sizeof(*ip) + SWAP16(udp->len));
    ip->id = random();
    ip->frag_off = 0;
    ip->ttl = hops - 1;
    ip->protocol = IPPROTO_UDP;
    ip->check = add_to_sum(0xffff, entry->ip_sum + word[0] + word[1] + word[2] + word[4]);
    __builtin_memcpy(&ip->saddr, entry->ends.source, 4);
    __builtin_memcpy(&ip->daddr, entry->ends.destination, 4);
}

// A packet with UDP at `udp_at` whose `key` lacks the ports and the channel. `size` is what the
// headers say that all of it has.
INLINE int relay(struct __sk_buff *packet, struct key *key, __u32 udp_at, __u32 size)
{
    void *data = (void *)(long)packet->data, *end = (void *)(long)packet->data_end;
    struct udphdr *udp = data + udp_at;
    __be16 *channel = (void *)(udp + 1);
    if ((void *)(channel + 2) > end)
        return ON_WITH_IT;
    key->ends.source_port = udp->source;
    key->ends.destination_port = udp->dest;
    struct entry *entry = 0;
    if ((*(__u8 *)channel & 0xc0) == 0x40) { // RFC 5766 Section 11; a peer's QUIC looks so too
        key->channel = channel[0];
        entry = map_lookup(&entries, key);
    }
    if (!entry) {
        key->channel = 0;
        entry = map_lookup(&entries, key);
    }
    if (!entry)
        return ON_WITH_IT;

    __u32 zero = 0, number = entry->count;
    __u64 now = ktime();
    struct count *count = map_lookup(&counts, &number);
    __u8 *buffer = map_lookup(&scratch, &zero);
    if (!count || !buffer || now >= entry->expires_at || packet->ifindex != entry->in)
        return ON_WITH_IT;
    if (packet->gso_size) { // many datagrams in one, which user space relays as one
        count->held_until = now + HOLD;
        return ON_WITH_IT;
    }
    if (now < count->held_until)
        return ON_WITH_IT;

    const int is_ipv4 = udp_at == UDP_IN_IPV4; // what the compiler knows
    __u32 old_header = key->channel ? CHANNEL_HEADER : 0;
    __u32 new_header = entry->channel ? CHANNEL_HEADER : 0;
    __u32 payload_at = udp_at + sizeof(*udp), new_udp_at = udp_at;
    if (entry->version_and_label)
        new_udp_at = is_ipv4 ? UDP_IN_IPV6 : UDP_IN_IPV4;
    __be16 channel_length = channel[1];
    __u64 length = size - payload_at; // in 64 bits, or the verifier loses sight of it
    // The first is about Ethernet's own padding.
    if (size != packet->len || size > LARGEST || SWAP16(udp->len) != length + sizeof(*udp) ||
        udp->check == 0)
        return ON_WITH_IT;
    length -= old_header;
    if ((old_header && SWAP16(channel_length) != length) ||
        new_udp_at + sizeof(*udp) + new_header + length - sizeof(struct ethhdr) > entry->mtu)
        return ON_WITH_IT;
    struct allowance *one = 0, *other = 0;
    if (entry->allowances[0] && !(one = map_lookup(&allowances, &entry->allowances[0])))
        return ON_WITH_IT;
    if (entry->allowances[1] && !(other = map_lookup(&allowances, &entry->allowances[1])))
        return ON_WITH_IT;
    if (is_used_up(one, length) || is_used_up(other, length))
        return ON_WITH_IT;

    // All headers from UDP's on, and the payload behind them, as they shall be.
    buffer += HEADROOM;
    __u8 *from_udp = buffer + udp_at;
    struct udphdr *new_udp = (void *)from_udp;
    __u64 written = sizeof(*udp) + new_header;
    if (load(packet, 0, buffer, payload_at))
        return ON_WITH_IT;
    if (entry->version_and_label && is_ipv4 &&
        !is_intact((void *)(from_udp - sizeof(struct iphdr))))
        return ON_WITH_IT;
    if (old_header != new_header) {
        // The verifier cannot follow the arithmetic that says so.
        asm volatile("" : "+r"(length));
        if (length == 0 || length >= LARGEST)
            return ON_WITH_IT;
        __u8 *payload = from_udp + sizeof(*udp) + new_header;
        if (load(packet, payload_at + old_header, payload, length))
            return ON_WITH_IT;
        // bpf_skb_adjust_room would move the headers but not csum_start with them.
        if (change_tail(packet, payload_at + new_header + length, 0))
            return ON_WITH_IT;
        written += length;
    }
    __u32 sum = entry->udp_sum;
    if (old_header != new_header) // a channel header came or went
        sum += old_header ? (__u16)~channel_length : SWAP16(length);
    new_udp->source = entry->ends.source_port;
    new_udp->dest = entry->ends.destination_port;
    new_udp->len = SWAP16(sizeof(*udp) + new_header + length);
    if (new_header) {
        __be16 *header = (void *)(new_udp + 1);
        header[0] = entry->channel;
        header[1] = SWAP16(length);
    }
    // From here on nothing can be taken back.
    __u32 at = sizeof(struct ethhdr);
    __u8 *from = buffer + at;
    if (entry->version_and_label) {
        __be16 protocol = SWAP16(is_ipv4 ? ETH_P_IPV6 : ETH_P_IP);
        if (is_ipv4)
            become_ipv6(new_udp, entry);
        else
            become_ipv4(new_udp, entry);
        // It adds or takes 20 bytes in front of UDP, which stays where csum_start is.
        if (change_proto(packet, protocol, 0) ||
            store(packet, __builtin_offsetof(struct ethhdr, h_proto), &protocol, 2, 0) ||
            store(packet, at, from_udp - (new_udp_at - at), new_udp_at - at, BPF_F_RECOMPUTE_CSUM))
            return DROP;
        at = new_udp_at;
        from = from_udp;
    } else if (is_ipv4) {
        struct iphdr *ip = (void *)from;
        ip->check = add_to_sum(ip->check, entry->ip_sum);
        ip->tot_len = SWAP16(payload_at + new_header + length - sizeof(struct ethhdr));
        ip->ttl--;
        __builtin_memcpy(&ip->saddr, entry->ends.source, 4);
        __builtin_memcpy(&ip->daddr, entry->ends.destination, 4);
        written += sizeof(*ip);
    } else {
        struct ipv6hdr *ip = (void *)from;
        ip->payload_len = new_udp->len;
        ip->hop_limit--;
        __builtin_memcpy(&ip->saddr, entry->ends.source, 16);
        __builtin_memcpy(&ip->daddr, entry->ends.destination, 16);
        written += sizeof(*ip);
    }
    asm volatile("" : "+r"(written));
    if (written == 0 || written > LARGEST)
        return DROP;
    if (store(packet, at, from, written, 0))
        return DROP;
    // Two steps: where the checksum is left to the device (CHECKSUM_PARTIAL), the field has the sum
    // of the pseudo-header alone. MARK_MANGLED_0: what comes out as 0 is the other zero, 0xffff.
    __u32 check_at = new_udp_at + __builtin_offsetof(struct udphdr, check);
    __u64 flags = BPF_F_MARK_MANGLED_0;
    if (replace_sum(packet, check_at, 0, entry->pseudo_sum, flags | BPF_F_PSEUDO_HDR) ||
        replace_sum(packet, check_at, 0, sum, flags))
        return DROP;
    // Where the device has summed the whole packet (CHECKSUM_COMPLETE; change_tail forgets that),
    // the first step took for granted that the header has a checksum of its own, which evens out.
    if (!is_ipv4 && !entry->version_and_label)
        update_sum(packet, entry->ip_sum);
    __sync_fetch_and_add(&count->packets, 1);
    __sync_fetch_and_add(&count->bytes, length);
    take(one, length);
    take(other, length);
    if (entry->out)
        return redirect(entry->out, &entry->next_hop, sizeof(entry->next_hop), 0);
    // A packet on loopback has its route with it; of another version it needs another one.
    return entry->version_and_label ? redirect(packet->ifindex, 0, 0, 0) : ON_WITH_IT;
}

SECTION("tc") int shortcut(struct __sk_buff *packet)
{
    void *data = (void *)(long)packet->data, *end = (void *)(long)packet->data_end;
    struct ethhdr *ethernet = data;
    struct key key = {};
    // A VLAN's packets come again, without the tag, by the interface of the VLAN.
    if (packet->vlan_present || packet->pkt_type != PACKET_HOST)
        return ON_WITH_IT;
    if ((void *)(ethernet + 1) > end)
        return ON_WITH_IT;
    if (ethernet->h_proto == SWAP16(ETH_P_IP)) {
        struct iphdr *ip = (void *)(ethernet + 1);
        // 0x3fff: more fragments, or not the first one.
        if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->protocol != IPPROTO_UDP ||
            ip->ttl < 2 || ip->frag_off & SWAP16(0x3fff))
            return ON_WITH_IT;
        __builtin_memcpy(key.ends.source, &ip->saddr, 4);
        __builtin_memcpy(key.ends.destination, &ip->daddr, 4);
        key.version = 4;
        return relay(packet, &key, sizeof(*ethernet) + sizeof(*ip),
                     sizeof(*ethernet) + SWAP16(ip->tot_len));
    }
    if (ethernet->h_proto == SWAP16(ETH_P_IPV6)) {
        struct ipv6hdr *ip = (void *)(ethernet + 1);
        if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_UDP || ip->hop_limit < 2)
            return ON_WITH_IT;
        __builtin_memcpy(key.ends.source, &ip->saddr, 16);
        __builtin_memcpy(key.ends.destination, &ip->daddr, 16);
        key.version = 6;
        return relay(packet, &key, sizeof(*ethernet) + sizeof(*ip),
                     sizeof(*ethernet) + sizeof(*ip) + SWAP16(ip->payload_len));
    }
    return ON_WITH_IT;
}

SECTION("license") char terms[] = "Apache-2.0";
