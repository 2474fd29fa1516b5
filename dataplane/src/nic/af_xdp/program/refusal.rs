//! Why the kernel did not attach a program, in our words.

use aya::programs::{ProgramError, XdpMode};

use crate::nic::af_xdp::drive;
use crate::nic::af_xdp::error::{AfXdpError, chain, system_error};
use crate::nic::af_xdp::port::Port;

/// Says in our words why the kernel did not attach.
pub(super) fn refusal(
    port: &str,
    receive_queues: u32,
    mode: XdpMode,
    error: &ProgramError,
) -> AfXdpError {
    let port = port.to_owned();
    match system_error(error) {
        // What the veth driver answers: the first two are about its peer.
        Some(libc::ERANGE) => AfXdpError::PeerMtuTooBig { port },
        Some(libc::ENOSPC) => AfXdpError::TooFewReceiveQueues { port, receive_queues },
        Some(libc::EBUSY | libc::EEXIST) => {
            let id = Port::read(&port).ok().and_then(|read| read.program).map_or(0, |it| it.id);
            held(&port, id)
        }
        Some(libc::EPERM) => AfXdpError::MissingCapabilities { missing: vec!["CAP_NET_ADMIN"] },
        Some(libc::ENODEV) => AfXdpError::NoSuchPort { port },
        _ => AfXdpError::ModeRefused {
            port,
            mode: if mode == XdpMode::Skb { "generic" } else { "native" },
            reason: chain(error),
        },
    }
}

/// The error for a port that another program holds, with the kernel's name of it.
pub(super) fn held(port: &str, id: u32) -> AfXdpError {
    let program = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned());
    let (program, fix) = if program == drive::NAME {
        (
            format!("{program}, of a Penstock node with another run directory"),
            "stop that node; if it was killed, `penstock detach` with its run directory removes \
             the program"
                .to_owned(),
        )
    } else {
        let fix = format!(
            "stop the program that loaded it, or remove it by `ip link set dev {port} xdp off`"
        );
        (program, fix)
    };
    AfXdpError::PortHeld { port: port.to_owned(), program, id, fix }
}
