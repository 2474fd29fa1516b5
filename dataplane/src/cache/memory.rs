//! Memory of the tables: anonymous pages, huge ones where the kernel gives them, all zero.
//!
//! All of it is taken at the start: a page that is first touched by a packet is an allocation in
//! the packet path, and zeroing a huge one takes a millisecond.

use bytemuck::Pod;
use memmap2::{Advice, MmapMut, MmapOptions};
use std::marker::PhantomData;

/// A fixed number of `T`, zeroed at the start.
pub(super) struct Pages<T> {
    map: MmapMut,
    count: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// Room for `count` elements.
    ///
    /// # Panics
    /// The system gives no address space of that size: the configuration asks for a cache that
    /// this machine cannot hold.
    pub(super) fn new(count: usize) -> Pages<T> {
        let bytes = count.max(1) * size_of::<T>();
        let map = MmapOptions::new().len(bytes).map_anon();
        let map = map.expect("the machine holds a cache of the configured size");
        // Without huge pages the table is as right and only slower.
        let _ = map.advise(Advice::HugePage);
        // Without it (Linux before 5.14, or memory is short) pages come when they are touched.
        let _ = map.advise(Advice::PopulateWrite);
        Pages { map, count, element: PhantomData }
    }

    /// One element, for no more than its own bounds are looked at.
    #[inline(always)]
    pub(super) fn at(&self, index: usize) -> &T {
        let start = index * size_of::<T>();
        bytemuck::from_bytes(&self.map[start..start + size_of::<T>()])
    }

    /// As [`Pages::at`], to change.
    #[inline(always)]
    pub(super) fn at_mut(&mut self, index: usize) -> &mut T {
        let start = index * size_of::<T>();
        bytemuck::from_bytes_mut(&mut self.map[start..start + size_of::<T>()])
    }

    #[inline(always)]
    pub(super) fn slice(&self) -> &[T] {
        &bytemuck::cast_slice(&self.map)[..self.count]
    }

    /// Bytes of address space.
    pub(super) fn bytes(&self) -> usize {
        self.map.len()
    }
}
