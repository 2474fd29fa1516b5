//! A TCP segment that belongs to no connection, by a raw socket.

use crate::lab::error::{Error, trying};
use crate::lab::namespace::Namespace;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recvfrom, sendto, socket,
};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long to wait for an answer before calling it silence.
const SILENCE: Duration = Duration::from_millis(700);

const FLAG_RST: u8 = 0x04;
const FLAG_ACK: u8 = 0x10;
const HEADER: usize = 20;

/// What an ACK out of nowhere got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// A reset that its sender would accept: its sequence number is the ACK's (RFC 9293, 3.10.7.1).
    Reset,
    /// A reset with a wrong sequence number.
    WrongReset,
    /// Nothing.
    Silence,
}

/// Sends an ACK with random-looking numbers from `source_port` and waits for a reset.
///
/// # Errors
/// When the raw socket fails.
pub(crate) fn stray_ack(
    namespace: &Namespace,
    source_port: u16,
    to: SocketAddr,
) -> Result<Reaction, Error> {
    namespace.enter(|| probe(source_port, to))?.map_err(trying("raw TCP socket"))
}

fn probe(source_port: u16, to: SocketAddr) -> io::Result<Reaction> {
    // The kernel says which of our addresses it would use.
    let any: SocketAddr =
        if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().map_err(io::Error::other)?;
    let guide = UdpSocket::bind(any)?;
    guide.connect(to)?;
    let from = guide.local_addr()?.ip();

    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let raw = socket(family, SocketType::RAW, Some(ipproto::TCP))?;
    set_socket_timeout(&raw, Timeout::Recv, Some(SILENCE))?;
    let acknowledged = 0x5eed_cafe_u32;
    let segment = ack(from, source_port, to, acknowledged);
    sendto(&raw, &segment, SendFlags::empty(), &SocketAddr::new(to.ip(), 0))?;

    let deadline = Instant::now() + SILENCE;
    let mut buffer = [0; 2048];
    while Instant::now() < deadline {
        let length = match recvfrom(&raw, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        // An IPv4 raw socket delivers the IP header too (raw(7)).
        let skip = if to.is_ipv4() { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
        let Some(header) = buffer[..length].get(skip..skip + HEADER) else { continue };
        let ports = (
            u16::from_be_bytes([header[0], header[1]]),
            u16::from_be_bytes([header[2], header[3]]),
        );
        if ports == (to.port(), source_port) && header[13] & FLAG_RST != 0 {
            let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            return Ok(if sequence == acknowledged {
                Reaction::Reset
            } else {
                Reaction::WrongReset
            });
        }
    }
    Ok(Reaction::Silence)
}

/// A bare TCP header with ACK set and its checksum filled in.
fn ack(from: IpAddr, source_port: u16, to: SocketAddr, acknowledged: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0..2].copy_from_slice(&source_port.to_be_bytes());
    header[2..4].copy_from_slice(&to.port().to_be_bytes());
    header[4..8].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    header[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    header[12] = (HEADER as u8 / 4) << 4;
    header[13] = FLAG_ACK;
    header[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    let sum = checksum(from, to.ip(), &header);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    header
}

/// The TCP checksum over the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let pseudo = [&octets(from)[..], &octets(to), &[0, 6], &(segment.len() as u16).to_be_bytes()];
    let bytes = [&pseudo.concat()[..], segment].concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_with_its_checksum_sums_to_all_ones() {
        for (from, to) in [("192.168.10.11", "10.90.0.80:80"), ("fd00:10::11", "[fd00:90::80]:80")]
        {
            let (from, to): (IpAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            // Over a segment that holds its checksum, the sum's complement is zero (RFC 1071).
            assert_eq!(checksum(from, to.ip(), &ack(from, 4000, to, 7)), 0, "{to}");
        }
    }
}
