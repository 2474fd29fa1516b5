//! Packets: every op, every malformation and every answer as rows of tables, and random packets
//! whose incrementally corrected checksums are recomputed in full.
#![allow(missing_docs, reason = "tests")]

mod answers;
mod frames;
mod parsing;
mod random;
mod rewriting;
