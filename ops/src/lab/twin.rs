//! The kernel in the node's place: forwarding, conntrack and nftables.
//!
//! An independent twin of what the lab asks of Penstock. Checks of packets that pass here and
//! there are about packets, not about Penstock's opinion of itself; checks that fail here
//! (checksums in flight, copies, flows that outlive the process) show that they can fail.

use super::error::{Error, trying};
use super::namespace::command;
use super::site::Site;
use std::fs;

const RULES: &str = r"
table inet lab {
  chain before {
    type nat hook prerouting priority dstnat;
    iifname left ip daddr { 10.90.0.80, 10.90.0.81 } meta l4proto { tcp, udp } dnat ip to numgen random mod 3 map { 0 : 10.20.0.11 . 8080, 1 : 10.20.0.12 . 8080, 2 : 10.20.3.13 . 8080 }
    iifname left ip6 daddr { fd00:90::80, fd00:90::81 } meta l4proto { tcp, udp } dnat ip6 to numgen random mod 3 map { 0 : fd00:20::11 . 8080, 1 : fd00:20::12 . 8080, 2 : fd00:20:3::13 . 8080 }
    iifname left ip daddr 10.90.0.80 dnat ip to 10.20.0.11
    iifname left ip6 daddr fd00:90::80 dnat ip6 to fd00:20::11
    iifname left ip daddr 10.90.0.83 tcp dport 80 dnat ip to 10.20.3.13:8080
    iifname left ip6 daddr fd00:90::83 tcp dport 80 dnat ip6 to [fd00:20:3::13]:8080
    iifname left ip daddr 10.90.0.84 tcp dport 80 dnat ip to 192.168.10.12:8080
    iifname left ip daddr 10.90.0.90 udp dport 7000 dnat ip to 10.20.0.11
    iifname left ip6 daddr fd00:90::90 udp dport 7000 dnat ip6 to fd00:20::11
  }
  chain after {
    type nat hook postrouting priority srcnat;
    ct original ip daddr 10.90.0.81 snat ip to 10.20.0.110
    ct original ip6 daddr fd00:90::81 snat ip6 to fd00:20::110
    ct original ip daddr 10.90.0.84 snat ip to 192.168.10.100
    ct status dnat accept
    ip daddr 10.21.0.128/25 meta l4proto tcp snat ip to 10.20.0.120
    ip6 daddr fd00:21:0:1::/64 meta l4proto tcp snat ip6 to fd00:20::120
    ip daddr 10.21.0.0/24 accept
    ip6 daddr fd00:21::/32 accept
    oifname right ip saddr 192.168.10.0/24 snat ip to 10.20.0.100
    oifname right ip6 saddr fd00:10::/64 snat ip6 to fd00:20::100
  }
}
";

/// Makes the node's kernel forward.
///
/// # Errors
/// When `ip` or `nft` refuses.
pub(crate) fn start(site: &Site) -> Result<(), Error> {
    let node = site.namespace("node");
    node.set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    node.batch(
        "address add 10.20.0.100/32 dev right\n\
         address add 10.20.0.110/32 dev right\n\
         address add 10.20.0.120/32 dev right\n\
         address add fd00:20::120/128 dev right nodad\n\
         address add fd00:20::100/128 dev right nodad\n\
         address add fd00:20::110/128 dev right nodad\n\
         address add 192.168.10.100/32 dev left\n",
    )?;
    let rules = site.folder().join("twin.nft");
    fs::write(&rules, RULES).map_err(trying(rules.display().to_string()))?;
    command(node.command("nft").arg("-f").arg(&rules)).map(drop)
}
