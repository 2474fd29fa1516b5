//! Who is in the lab, and how it is wired.
//!
//! ```text
//! client-1 ─┐                                            ┌─ server-1
//! client-2 ─┴ left-switch ── left [node] right ── right-switch ┼─ server-2
//! 192.168.10.0/24, fd00:10::/64     10.20.0.0/24, fd00:20::/64 └─ router ──(MTU 1400)── server-3
//!                                                               10.20.3.0/24, fd00:20:3::/64
//! ```
//! Every end has the MTU 1500 and the offloads that a veth has by itself, as containers do; only
//! `client-2` and `server-1` have their checksum offload off, so both kinds of frames meet Penstock.
//! The switches' ends of the node's ports have GRO, so that the driver can send there.

use super::error::Error;
use super::namespace::{Namespace, command};
use super::site::Site;

/// Begins the name of everything that the lab makes.
pub(crate) const PREFIX: &str = "penstock-lab-";
/// Where the lab keeps its things.
pub(crate) const FOLDER: &str = "/run/penstock-lab";

/// The bytes that the link to `server-3` carries in one packet.
pub(crate) const NARROW_MTU: u16 = 1400;

/// A host at the edge of the lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostPlan {
    /// Its short name, and its namespace's.
    pub(crate) name: &'static str,
    /// Its IPv4 address.
    pub(crate) v4: &'static str,
    /// Its IPv6 address.
    pub(crate) v6: &'static str,
}

/// The clients.
pub(crate) const CLIENTS: [HostPlan; 2] = [
    HostPlan { name: "client-1", v4: "192.168.10.11", v6: "fd00:10::11" },
    HostPlan { name: "client-2", v4: "192.168.10.12", v6: "fd00:10::12" },
];

/// The servers; the last one stands behind the router.
pub(crate) const SERVERS: [HostPlan; 3] = [
    HostPlan { name: "server-1", v4: "10.20.0.11", v6: "fd00:20::11" },
    HostPlan { name: "server-2", v4: "10.20.0.12", v6: "fd00:20::12" },
    HostPlan { name: "server-3", v4: "10.20.3.13", v6: "fd00:20:3::13" },
];

/// The router between the servers' network and `server-3`.
pub(crate) const ROUTER: HostPlan =
    HostPlan { name: "router", v4: "10.20.0.254", v6: "fd00:20::254" };
/// The node's own addresses on its left port.
pub(crate) const NODE_LEFT: HostPlan =
    HostPlan { name: "node", v4: "192.168.10.1", v6: "fd00:10::1" };
/// The node's own addresses on its right port.
pub(crate) const NODE_RIGHT: HostPlan =
    HostPlan { name: "node", v4: "10.20.0.1", v6: "fd00:20::1" };

/// Addresses of `server-1` that no requirement of the lab is about.
pub(crate) const OUTSIDE: HostPlan =
    HostPlan { name: "server-1", v4: "10.21.0.11", v6: "fd00:21::11" };
/// Addresses of `server-1` that the requirement `tcp-only` is about.
pub(crate) const TCP_ONLY: HostPlan =
    HostPlan { name: "server-1", v4: "10.21.0.129", v6: "fd00:21:0:1::11" };

/// The names of all namespaces, in the order of their making.
pub(crate) const NAMES: [&str; 9] = [
    "left-switch",
    "right-switch",
    "node",
    "client-1",
    "client-2",
    "server-1",
    "server-2",
    "router",
    "server-3",
];

/// Makes the namespaces and the wires between them, with addresses and routes.
///
/// # Errors
/// When the kernel or `ip` refuses.
pub(crate) fn build(site: &Site) -> Result<(), Error> {
    for name in NAMES {
        site.namespace(name).create()?;
    }
    for name in ["left-switch", "right-switch"] {
        // No spanning tree and no snooping: a switch that forwards from the first frame on.
        site.namespace(name).batch(
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set br0 up\n",
        )?;
    }
    plug(site, "left-switch", "node", "left")?;
    plug(site, "right-switch", "node", "right")?;
    for name in ["left-switch", "right-switch"] {
        command(site.namespace(name).command("ethtool").args(["-K", "node", "gro", "on"]))?;
    }
    let node = site.namespace("node");
    address(&node, "left", &NODE_LEFT)?;
    address(&node, "right", &NODE_RIGHT)?;
    node.batch(&format!(
        "route add 10.20.3.0/24 via {} dev right\nroute add fd00:20:3::/64 via {} dev right\n",
        ROUTER.v4, ROUTER.v6
    ))?;
    for client in &CLIENTS {
        plug(site, "left-switch", client.name, "eth0")?;
        let client_space = site.namespace(client.name);
        address(&client_space, "eth0", client)?;
        default_route(&client_space, &NODE_LEFT, "")?;
    }
    command(site.namespace("client-2").command("ethtool").args(["-K", "eth0", "tx", "off"]))?;
    for server in &SERVERS[..2] {
        plug(site, "right-switch", server.name, "eth0")?;
        address(&site.namespace(server.name), "eth0", server)?;
        default_route(&site.namespace(server.name), &NODE_RIGHT, "")?;
    }
    command(site.namespace("server-1").command("ethtool").args(["-K", "eth0", "tx", "off"]))?;
    more_addresses(site)?;
    behind_router(site)
}

/// Addresses that are reached through `server-1`. A preferred lifetime of 0 keeps them from being
/// chosen as sources.
fn more_addresses(site: &Site) -> Result<(), Error> {
    for plan in [&OUTSIDE, &TCP_ONLY] {
        site.namespace(plan.name).batch(&format!(
            "address add {}/32 dev eth0 preferred_lft 0\n\
             address add {}/128 dev eth0 nodad preferred_lft 0\n",
            plan.v4, plan.v6
        ))?;
    }
    let via = &SERVERS[0];
    site.namespace("node").batch(&format!(
        "route add 10.21.0.0/24 via {} dev right\nroute add fd00:21::/32 via {} dev right\n",
        via.v4, via.v6
    ))
}

/// The router, and `server-3` behind a narrow link. The server advertises the segment size of a
/// wide one, so that the router has to say what does not fit.
fn behind_router(site: &Site) -> Result<(), Error> {
    plug(site, "right-switch", "router", "near")?;
    let (router, server) = (site.namespace("router"), site.namespace("server-3"));
    address(&router, "near", &ROUTER)?;
    default_route(&router, &NODE_RIGHT, "")?;
    router.batch(&format!(
        "link add far type veth peer name eth0 netns {}\n\
         link set far mtu {NARROW_MTU} up\n\
         address add 10.20.3.254/24 dev far\n\
         address add fd00:20:3::254/64 dev far nodad\n",
        server.name()
    ))?;
    router.set(&[
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        // The lab asks more often than one ICMP error a second.
        ("ipv4/icmp_ratelimit", "0"),
        ("ipv6/icmp/ratelimit", "0"),
    ])?;
    server.batch(&format!("link set eth0 mtu {NARROW_MTU} up\n"))?;
    address(&server, "eth0", &SERVERS[2])?;
    server.batch(
        "route add 0.0.0.0/0 via 10.20.3.254 advmss 1460\n\
         route add ::/0 via fd00:20:3::254 advmss 1440\n",
    )
}

/// Wires `host` to a switch by a veth pair; its end there is named after the host.
fn plug(site: &Site, switch: &str, host: &str, interface: &str) -> Result<(), Error> {
    let (switch, host_space) = (site.namespace(switch), site.namespace(host));
    switch.batch(&format!(
        "link add {host} type veth peer name {interface} netns {}\n\
         link set {host} master br0 up\n",
        host_space.name()
    ))?;
    host_space.batch(&format!("link set {interface} up\n"))
}

fn address(namespace: &Namespace, interface: &str, plan: &HostPlan) -> Result<(), Error> {
    // Without duplicate address detection an IPv6 address can be used at once.
    namespace.batch(&format!(
        "address add {}/24 dev {interface}\naddress add {}/64 dev {interface} nodad\n",
        plan.v4, plan.v6
    ))
}

fn default_route(namespace: &Namespace, via: &HostPlan, options: &str) -> Result<(), Error> {
    namespace.batch(&format!(
        "route add 0.0.0.0/0 via {} {options}\nroute add ::/0 via {} {options}\n",
        via.v4, via.v6
    ))
}
