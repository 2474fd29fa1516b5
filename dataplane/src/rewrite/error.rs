//! ICMP errors: what they quote is translated back, so that the sender of the quoted packet finds
//! it among its own.
//!
//! An error that arrives in a network quotes a packet as we sent it out there. The form is that of
//! the answers to this packet, so the quote gets its ends reversed. Everything that changes within
//! the quote, its own checksums included, enters the checksum of the error as one difference.

use super::ends::{self, Ends};
use super::{CannotApply, update_upper};
use crate::packet::checksum::{self, Sum};
use crate::packet::{Packet, Version, ipv4, ipv6, tcp};

/// What becomes of the quote: addresses, and ports and checksums where they are quoted.
pub(super) trait Quoted: Copy {
    /// Sets the addresses in the quoted IP header, its checksum too; gives the change for the
    /// upper layer. None when there is no header at the front of `quote`.
    fn set_addresses(&self, quote: &mut [u8]) -> Option<Sum>;
}

impl Quoted for Ends<[u8; 4]> {
    fn set_addresses(&self, quote: &mut [u8]) -> Option<Sum> {
        let header: &mut [u8; ipv4::HEADER_BYTES] = quote.first_chunk_mut()?;
        let change = ends::addresses4(header, &self.source, &self.destination);
        super::update_header4(header, change);
        Some(change)
    }
}

impl Quoted for Ends<[u8; 16]> {
    fn set_addresses(&self, quote: &mut [u8]) -> Option<Sum> {
        let header: &mut [u8; ipv6::HEADER_BYTES] = quote.first_chunk_mut()?;
        Some(ends::addresses6(header, &self.source, &self.destination))
    }
}

/// Translates the quote of the error `packet` to `ends` and corrects the error's checksum by
/// that and by `outer`, the change of its pseudo header.
pub(super) fn translate_quote<A>(
    frame: &mut [u8],
    packet: &Packet,
    inner: &Packet,
    ends: Ends<A>,
    outer: Sum,
) -> Result<(), CannotApply>
where
    Ends<A>: Quoted,
    A: Copy,
{
    let (header_bytes, quote) = quote(frame, inner)?;
    let before = Sum::of(quote);
    let addresses = ends.set_addresses(quote).ok_or(CannotApply::OutOfBounds)?;
    if inner.has_transport() {
        let upper = &mut quote[header_bytes..];
        let ports = ends::ports(upper, inner.content, ends.source_port, ends.destination_port);
        update_upper(upper, inner, addresses, ports);
    }
    let change = Sum::difference(before, Sum::of(quote)).plus(outer);
    let at = usize::from(packet.transport) + CHECKSUM;
    if let Some(field) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        checksum::update(field, change);
    }
    Ok(())
}

/// Where the checksum is in an ICMP message.
const CHECKSUM: usize = 2;

/// The length of the quoted IP header, and the quote's bytes up to the last that may change.
pub(super) fn quote<'a>(
    frame: &'a mut [u8],
    inner: &Packet,
) -> Result<(usize, &'a mut [u8]), CannotApply> {
    let (start, transport) = (usize::from(inner.network), usize::from(inner.transport));
    let end = usize::from(inner.end).min(transport + tcp::HEADER_BYTES);
    let quote = frame.get_mut(start..end).ok_or(CannotApply::OutOfBounds)?;
    let header_bytes = transport.checked_sub(start).ok_or(CannotApply::OutOfBounds)?;
    let fixed = match inner.version {
        Version::V4 => ipv4::HEADER_BYTES,
        Version::V6 => ipv6::HEADER_BYTES,
    };
    if header_bytes < fixed || header_bytes > quote.len() {
        return Err(CannotApply::OutOfBounds);
    }
    Ok((header_bytes, quote))
}
