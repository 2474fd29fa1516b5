//! Asks the processor for memory before it is needed. A table of a million flows lies far from
//! the core; a batch that asks for all its lines first waits for them once, not once per packet.
#![allow(unsafe_code)]

/// Asks for the cache line at the start of `place`. A hint: it changes nothing that can be seen.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is part of the base set of x86-64 (SSE), it never faults
        // whatever the address, and this one comes from a live reference.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast::<i8>()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
