//! What the kernel knows of an interface, read by netlink and ethtool in the namespace of the caller.

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::error::{AfXdpError, System as _};

/// An interface that Penstock takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name of the interface.
    pub name: String,
    /// Index of the interface in its network namespace.
    pub interface: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Receive queues in use, each of which needs a socket.
    pub receive_queues: u32,
    /// The XDP program that is attached, if any.
    pub program: Option<AttachedProgram>,
}

/// An XDP program at an interface, as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// Where it runs.
    pub mode: AttachMode,
    /// The kernel's id of it.
    pub id: u32,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before a packet costs anything.
    Native,
    /// In the stack, for drivers that cannot.
    Generic,
    /// On the card.
    Offloaded,
}

impl AttachMode {
    /// The name shown to people and used in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }
}

// linux/rtnetlink.h and linux/if_link.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Bits of an attribute's type that are flags: NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const ATTRIBUTE_FLAGS: u16 = 0xc000;
/// Bytes of `struct nlmsghdr` and of `struct ifinfomsg`.
const MESSAGE_HEADER: usize = 16;
const LINK_HEADER: usize = 16;

impl Port {
    /// Reads an interface by its name.
    pub fn read(name: &str) -> Result<Self, AfXdpError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('/') {
            return Err(AfXdpError::NoSuchPort { port: name.to_owned() });
        }
        let answer = query(name)?;
        let mut port = Self::parse(name, &answer)?;
        port.receive_queues = receive_queues(name)?;
        Ok(port)
    }

    fn parse(name: &str, message: &[u8]) -> Result<Self, AfXdpError> {
        if word16(message, 4) == NLMSG_ERROR {
            return match -(word32(message, MESSAGE_HEADER) as i32) {
                libc::ENODEV => Err(AfXdpError::NoSuchPort { port: name.to_owned() }),
                code => Err(std::io::Error::from_raw_os_error(code))
                    .system(|| format!("read interface {name}")),
            };
        }
        if word16(message, 4) != RTM_NEWLINK || message.len() < MESSAGE_HEADER + LINK_HEADER {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidData))
                .system(|| format!("understand what the kernel says of interface {name}"));
        }
        let mut port = Self {
            name: name.to_owned(),
            interface: word32(message, MESSAGE_HEADER + 4),
            mac: [0; 6],
            mtu: 0,
            receive_queues: 1,
            program: None,
        };
        for (kind, value) in attributes(&message[MESSAGE_HEADER + LINK_HEADER..]) {
            match kind {
                IFLA_ADDRESS if value.len() == 6 => port.mac.copy_from_slice(value),
                IFLA_MTU => port.mtu = word32(value, 0),
                IFLA_XDP => port.program = attached(value),
                _ => {}
            }
        }
        Ok(port)
    }
}

fn attached(nest: &[u8]) -> Option<AttachedProgram> {
    let (mut mode, mut id) = (None, 0);
    for (kind, value) in attributes(nest) {
        match (kind, value.first()) {
            // XDP_ATTACHED_* of linux/if_link.h.
            (IFLA_XDP_ATTACHED, Some(1)) => mode = Some(AttachMode::Native),
            (IFLA_XDP_ATTACHED, Some(2)) => mode = Some(AttachMode::Generic),
            (IFLA_XDP_ATTACHED, Some(3 | 4)) => mode = Some(AttachMode::Offloaded),
            (IFLA_XDP_PROG_ID, _) => id = word32(value, 0),
            _ => {}
        }
    }
    mode.map(|mode| AttachedProgram { mode, id })
}

/// Asks the kernel for one interface and returns its one message.
fn query(name: &str) -> Result<Vec<u8>, AfXdpError> {
    let mut request = vec![0; MESSAGE_HEADER + LINK_HEADER];
    let mut value = name.as_bytes().to_vec();
    value.push(0);
    request.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    request.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    request.extend_from_slice(&value);
    request.resize(request.len().next_multiple_of(4), 0);
    let length = request.len() as u32;
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());

    let exchange = || -> rustix::io::Result<Vec<u8>> {
        let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
        // Protocol 0 of netlink is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, None)?;
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&socket, &request, SendFlags::empty(), &kernel)?;
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let ((received, _), _) =
            rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        Ok(received.to_vec())
    };
    exchange().system(|| format!("read interface {name}"))
}

/// The attributes in a message: kind and value. Stops at the first one that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(word16(bytes, 0));
        if length < 4 || length > bytes.len() {
            return None;
        }
        let kind = word16(bytes, 2) & !ATTRIBUTE_FLAGS;
        let value = &bytes[4..length];
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

/// Two bytes in host order, 0 where there are none.
pub(super) fn word16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |word| u16::from_ne_bytes([word[0], word[1]]))
}

/// Four bytes in host order, 0 where there are none.
fn word32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    receive_max: u32,
    transmit_max: u32,
    other_max: u32,
    combined_max: u32,
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// ETHTOOL_GCHANNELS of linux/ethtool.h and SIOCETHTOOL of linux/sockios.h.
const ETHTOOL_GET_CHANNELS: u32 = 0x3c;
const SIOCETHTOOL: u64 = 0x8946;

/// Receive queues in use. A driver that does not tell has one.
fn receive_queues(name: &str) -> Result<u32, AfXdpError> {
    let what = || format!("ask interface {name} for its queues");
    let kind = (AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, None).system(what)?;
    let mut channels = Channels { command: ETHTOOL_GET_CHANNELS, ..Channels::default() };
    // SAFETY: `ifreq` is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: `request` is an `ifreq` whose data points to the structure that the command fills;
    // both live until the call is over.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Ok(1),
            _ => Err(error).system(what),
        };
    }
    Ok((channels.receive + channels.combined).max(1))
}

/// Names of the capabilities that this thread lacks.
pub(super) fn missing_capabilities() -> Result<Vec<&'static str>, AfXdpError> {
    use rustix::thread::CapabilitySet as Set;
    let effective = rustix::thread::capabilities(None)
        .system(|| "read the capabilities of this process".to_owned())?
        .effective;
    let mut missing = Vec::new();
    if !effective.contains(Set::NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !effective.contains(Set::NET_RAW) {
        missing.push("CAP_NET_RAW");
    }
    if !effective.intersects(Set::BPF | Set::SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_read_and_what_is_not_there_is_named() {
        let loopback = Port::read("lo").unwrap();
        assert_eq!((loopback.interface, loopback.receive_queues), (1, 1));
        assert!(loopback.mtu >= 1500);
        for name in ["nowhere0", "", "a/b", "a-name-that-is-too-long"] {
            let error = Port::read(name).unwrap_err().to_string();
            assert!(error.contains("no such interface"), "{name}: {error}");
        }
    }
}
