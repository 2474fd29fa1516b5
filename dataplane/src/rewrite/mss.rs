//! The maximum segment size that a SYN announces, lowered to what fits the way (RFC 6691).

use crate::packet::array_at;
use crate::packet::checksum::Sum;
use crate::packet::tcp::{self, flag};

/// TCP option kinds (IANA).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Lowers the option of a SYN to `mss`, if it is there and greater; gives the change.
pub(super) fn clamp(segment: &mut [u8], tcp_flags: u8, mss: u16) -> Sum {
    if tcp_flags & flag::SYN == 0 {
        return Sum::default();
    }
    let Some(at) = find(segment) else { return Sum::default() };
    let old: [u8; 2] = array_at(segment, at);
    let new = mss.to_be_bytes();
    if u16::from_be_bytes(old) <= mss {
        return Sum::default();
    }
    if let Some(field) = segment.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = new;
    }
    // At an odd offset the two bytes are halves of two words: they count the other way round.
    if at.is_multiple_of(2) {
        Sum::change(&old, &new)
    } else {
        Sum::change(&[old[1], old[0]], &[new[1], new[0]])
    }
}

/// Where the value of the option is; none without a well-formed one.
fn find(segment: &[u8]) -> Option<usize> {
    let header = segment.get(..tcp::header_bytes(segment))?;
    let mut at = tcp::HEADER_BYTES;
    loop {
        let length = match *header.get(at)? {
            END => return None,
            NO_OPERATION => 1,
            kind => {
                let length = usize::from(*header.get(at + 1)?);
                if kind == MAXIMUM_SEGMENT_SIZE {
                    return (length == 4 && at + 4 <= header.len()).then_some(at + 2);
                }
                if length < 2 {
                    return None;
                }
                length
            }
        };
        at += length;
    }
}
