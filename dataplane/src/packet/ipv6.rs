//! IPv6 headers (RFC 8200) and the chain of extension headers up to the upper layer.

use super::{Extent, Fragment, Malformed, Packet, Upper, Version, u16_at};

/// Bytes of the fixed header.
pub(crate) const HEADER_BYTES: usize = 40;
/// The most extension headers that are followed; RFC 8200 names six kinds, one of them twice.
const EXTENSIONS_MAX: usize = 8;
/// Bytes of a fragment header.
const FRAGMENT_HEADER_BYTES: usize = 8;

/// Next-header numbers (IANA).
mod next {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// Where the chain of extension headers leads.
struct Chain {
    protocol: u8,
    transport: usize,
    fragment: Fragment,
}

/// Reads the IPv6 packet at `network`, which may be followed by padding.
#[inline(always)]
pub(super) fn read(frame: &[u8], network: usize, extent: Extent) -> Result<Packet, Malformed> {
    let bytes = frame.get(network..).unwrap_or_default();
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Malformed::Ipv6Header)?;
    if header[0] >> 4 != 6 {
        return Err(Malformed::Ipv6Header);
    }
    let mut total = HEADER_BYTES + usize::from(u16_at(header, 4));
    if total > bytes.len() {
        if extent == Extent::Packet {
            return Err(Malformed::Ipv6Length);
        }
        total = bytes.len();
    }
    let chain = if is_extension(header[6]) {
        follow(bytes.get(..total).unwrap_or_default(), header[6], extent)?
    } else {
        Chain { protocol: header[6], transport: HEADER_BYTES, fragment: Fragment::Whole }
    };
    let mut upper = Upper::NONE;
    let behind = bytes.get(chain.transport..total).unwrap_or_default();
    upper.read(Version::V6, chain.protocol, chain.fragment, behind, extent)?;
    Ok(Packet {
        network: network as u16,
        transport: (network + chain.transport) as u16,
        end: (network + total) as u16,
        source_port: upper.source_port,
        destination_port: upper.destination_port,
        version: Version::V6,
        protocol: chain.protocol,
        tcp_flags: upper.tcp_flags,
        ttl: header[7],
        fragment: chain.fragment,
        content: upper.content,
        dont_fragment: true,
        icmp_type: upper.icmp_type,
        icmp_code: upper.icmp_code,
    })
}

#[inline]
fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        next::HOP_BY_HOP
            | next::ROUTING
            | next::FRAGMENT
            | next::AUTHENTICATION
            | next::DESTINATION
    )
}

/// Follows the extension headers of a packet that begins with its fixed header and ends with its
/// last byte.
#[cold]
fn follow(bytes: &[u8], first: u8, extent: Extent) -> Result<Chain, Malformed> {
    let mut chain = Chain { protocol: first, transport: HEADER_BYTES, fragment: Fragment::Whole };
    let mut fragment_seen = false;
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(chain.protocol) {
            return Ok(chain);
        }
        let rest = bytes.get(chain.transport..).unwrap_or_default();
        let header: &[u8; 8] = rest.first_chunk().ok_or(Malformed::Ipv6Extensions)?;
        let length = match chain.protocol {
            next::FRAGMENT => FRAGMENT_HEADER_BYTES,
            next::AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if length > rest.len() {
            return Err(Malformed::Ipv6Extensions);
        }
        match chain.protocol {
            next::HOP_BY_HOP if chain.transport != HEADER_BYTES => {
                return Err(Malformed::Ipv6Extensions);
            }
            // Segments left: the destination that the checksum means is not the one in the header.
            next::ROUTING if header[3] != 0 => return Err(Malformed::SourceRouted),
            next::FRAGMENT if fragment_seen => return Err(Malformed::Ipv6Extensions),
            next::FRAGMENT => {
                fragment_seen = true;
                let payload = if extent == Extent::Packet { rest.len() - length } else { 8 };
                chain.fragment = read_fragment(header, payload)?;
            }
            _ => {}
        }
        chain.protocol = header[0];
        chain.transport += length;
        if let Fragment::Later { .. } = chain.fragment {
            return Ok(chain);
        }
    }
    if is_extension(chain.protocol) { Err(Malformed::Ipv6Extensions) } else { Ok(chain) }
}

fn read_fragment(
    header: &[u8; FRAGMENT_HEADER_BYTES],
    payload: usize,
) -> Result<Fragment, Malformed> {
    let word = u16_at(header, 2);
    let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Fragment::read(id, word >> 3, word & 1 == 1, payload, header[0])
}

/// A packet on its way has a single host as source: no group, not `::`, not `::1`.
#[inline]
pub(super) fn check_source(frame: &[u8], packet: &Packet) -> Result<(), Malformed> {
    let source = packet.source6(frame);
    if source[0] == 0xff || u128::from_be_bytes(source) <= 1 {
        return Err(Malformed::SourceAddress);
    }
    Ok(())
}
