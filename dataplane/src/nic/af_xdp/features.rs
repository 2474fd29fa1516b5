//! What the driver can do at a port: the kernel tells by generic netlink (`netdev`, Linux 6.3).

use std::mem::MaybeUninit;

use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::port::{AttachMode, attributes, word16};

// linux/genetlink.h and linux/netdev.h.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const DEVICE_GET: u8 = 1;
const DEVICE_INTERFACE: u16 = 1;
const DEVICE_FEATURES: u16 = 3;
/// NETDEV_XDP_ACT_NDO_XMIT: frames can be redirected to it.
const FEATURE_TRANSMIT: u64 = 4;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// Bytes of `struct nlmsghdr` and of `struct genlmsghdr`.
const MESSAGE_HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// What the driver's cache can do at a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ability {
    takes: bool,
    gives: bool,
    why: Option<String>,
}

impl Ability {
    /// Of a port in the mode that its program is attached in, or where the cache is `off` for a reason.
    pub(super) fn of(off: Option<&str>, mode: Option<AttachMode>, features: &Features) -> Ability {
        let nothing = |why: &str| Ability { why: Some(why.to_owned()), ..Ability::default() };
        match (mode, features) {
            _ if off.is_some() => nothing(off.unwrap_or_default()),
            // Its program goes on where it is now, with the same index of its interface.
            (_, Features::Gone) => nothing("the port is gone from this network namespace"),
            (None, _) => nothing("no program is attached"),
            (Some(AttachMode::Generic), _) => {
                nothing("XDP runs in generic mode there, behind the driver")
            }
            (_, Features::Known { transmits: true }) => {
                Ability { takes: true, gives: true, why: None }
            }
            (_, Features::Known { transmits: false }) => Ability {
                takes: true,
                why: Some(
                    "the driver cannot send by it; a veth can when its other end has \
                     `ethtool -K DEV gro on` or an XDP program"
                        .to_owned(),
                ),
                ..Ability::default()
            },
            (_, Features::Unknown(reason)) => Ability {
                takes: true,
                why: Some(format!("it is not known whether the driver can send by it: {reason}")),
                ..Ability::default()
            },
        }
    }

    /// Whether established flows that come in there can stay in the driver.
    pub fn takes(&self) -> bool {
        self.takes
    }

    /// Whether the driver can send frames there.
    pub fn gives(&self) -> bool {
        self.gives
    }

    /// Why not all of it, for people.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }
}

/// What the kernel says of a port.
pub(super) enum Features {
    Known {
        transmits: bool,
    },
    /// There is no such interface here.
    Gone,
    Unknown(String),
}

/// Asks for the features of an interface, in the network namespace of the calling thread.
pub(super) fn read(interface: u32) -> Features {
    query(interface).unwrap_or_else(|error| Features::Unknown(error.to_string()))
}

fn query(interface: u32) -> rustix::io::Result<Features> {
    let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, Some(GENERIC))?;
    let ask = |family: u16, command: u8, kind: u16, value: &[u8]| {
        let request = message(family, command, kind, value);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&socket, &request, SendFlags::empty(), &kernel)?;
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let ((received, _), _) =
            rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        rustix::io::Result::Ok(received.to_vec())
    };
    let untold = || Features::Unknown("the kernel does not tell (Linux 6.3 does)".to_owned());
    let answer = ask(CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
    let Some(family) = found(&answer, FAMILY_ID).map(|value| word16(value, 0)) else {
        return Ok(untold());
    };
    let answer = ask(family, DEVICE_GET, DEVICE_INTERFACE, &interface.to_ne_bytes())?;
    if error_of(&answer) == Some(-libc::ENODEV) {
        return Ok(Features::Gone);
    }
    let bits = found(&answer, DEVICE_FEATURES).and_then(|value| value.first_chunk::<8>());
    Ok(bits.map_or_else(untold, |bits| {
        let transmits = u64::from_ne_bytes(*bits) & FEATURE_TRANSMIT != 0;
        Features::Known { transmits }
    }))
}

fn message(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let mut request = vec![0; MESSAGE_HEADER];
    request.extend_from_slice(&[command, 1, 0, 0]);
    request.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(value);
    request.resize(request.len().next_multiple_of(4), 0);
    let length = request.len() as u32;
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&family.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request
}

/// The code of an answer that is an error: negative, and 0 for an acknowledgement.
fn error_of(answer: &[u8]) -> Option<i32> {
    let code = answer.get(MESSAGE_HEADER..)?.first_chunk::<4>()?;
    (word16(answer, 4) == NLMSG_ERROR).then_some(i32::from_ne_bytes(*code))
}

/// The value of an attribute of an answer. None in an error, and where it has none.
fn found(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    if word16(answer, 4) == NLMSG_ERROR {
        return None;
    }
    let rest = answer.get(MESSAGE_HEADER + GENERIC_HEADER..)?;
    attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}
