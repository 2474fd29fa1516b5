//! The hardware addresses of the next hop.

/// Sets both hardware addresses. A frame without room for them is left alone.
#[inline]
pub fn set_ethernet(frame: &mut [u8], source_mac: [u8; 6], destination_mac: [u8; 6]) {
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        addresses[..6].copy_from_slice(&destination_mac);
        addresses[6..].copy_from_slice(&source_mac);
    }
}
