//! Fragments: which part of a datagram a packet is, and which parts are not let in.

use super::Malformed;
use penstock_event_schema::flow::Protocol;

/// Which part of a datagram a packet is. A later fragment has no ports: it follows the first one
/// of the same addresses and identification (and protocol, for IPv4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The part with the upper-layer header; more follow.
    First {
        /// Identification: 16 bits for IPv4, 32 for IPv6.
        id: u32,
    },
    /// A part behind the first.
    Later {
        /// Identification: 16 bits for IPv4, 32 for IPv6.
        id: u32,
        /// Whether parts follow behind this one.
        more: bool,
    },
}

/// The longest datagram that fragments may add up to (RFC 791, RFC 8200, 4.5).
const DATAGRAM_BYTES_MAX: usize = 65_535;

impl Fragment {
    /// From the fields of an IPv4 header or an IPv6 fragment header. `offset` counts units of 8
    /// bytes, `payload` the bytes that this fragment carries. A lone "atomic" fragment is whole
    /// (RFC 6946).
    #[cold]
    pub(super) fn read(
        id: u32,
        offset: u16,
        more: bool,
        payload: usize,
        protocol: u8,
    ) -> Result<Fragment, Malformed> {
        if offset == 0 && !more {
            return Ok(Fragment::Whole);
        }
        let overwrites_header = offset == 1 && protocol == Protocol::TCP.0;
        let beyond = usize::from(offset) * 8 + payload > DATAGRAM_BYTES_MAX;
        let ragged = more && (payload == 0 || !payload.is_multiple_of(8));
        if overwrites_header || beyond || ragged {
            return Err(Malformed::Fragment);
        }
        Ok(if offset == 0 { Fragment::First { id } } else { Fragment::Later { id, more } })
    }
}
