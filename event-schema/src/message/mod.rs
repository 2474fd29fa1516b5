//! What tiers say to one another. Never stored; versions travel with the link.

pub mod decision;
pub mod report;
pub mod summary;
pub mod tracker;
