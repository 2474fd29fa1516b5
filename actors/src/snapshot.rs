//! What the records of a topic partition come to, up to one of them: read instead of them at a
//! start, and kept where they have been trimmed.
//!
//! A snapshot at rest is a head and the state:
//!
//! | bytes | what |
//! |---|---|
//! | 2 | [`VERSION`], little endian like all numbers here |
//! | 8, 8, 32, 8 | the position: epoch, seq, chain, time |
//! | 8 | bytes of all records up to there |
//! | 8 | bytes of the state |
//! | 32 | BLAKE3 of the state |
//! | 32 | BLAKE3 of the head before |
//!
//! The state is [`Machine::recorded_state`](crate::machine::Machine::recorded_state).

use crate::seam::Position;
use penstock_event_schema::epoch::{Chain, Epoch, Seq};
use penstock_event_schema::id::Time;

/// The version that this build writes, and the newest that it reads.
pub const VERSION: u16 = 2;

/// Bytes of a head.
pub const HEAD_SIZE: usize = 2 + 8 + 8 + 32 + 8 + 8 + 8 + 32 + 32;

/// Of what a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last record in it.
    pub position: Position,
    /// Bytes of all records up to that one since the first.
    pub bytes: u64,
    /// Bytes of the state.
    pub length: u64,
    /// BLAKE3 of the state.
    pub checksum: [u8; 32],
}

/// Why a snapshot cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SnapshotError {
    /// Another penstock wrote it. Version 1 was in no release.
    #[error("it has version {found}, and this penstock knows version {VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Less is there than was written.
    #[error("it is cut short: {have} bytes of {need}")]
    Short {
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// It is not as it was written.
    #[error("its checksum is wrong")]
    Damaged,
    /// The records that it stands for are not all in the journal.
    #[error("it stands for record {0}, and the journal does not go that far")]
    Ahead(Seq),
    /// The journal has other records than those that it stands for.
    #[error("it stands for another record {0} than the journal holds")]
    Foreign(Seq),
    /// The machine does not know what is in it.
    #[error(transparent)]
    State(#[from] crate::machine::RestoreError),
    /// The store cannot be read.
    #[error("the store cannot be read: {0}")]
    Store(String),
}

impl Head {
    /// Of a state at a position.
    pub fn new(position: Position, bytes: u64, state: &[u8]) -> Head {
        let checksum = *blake3::hash(state).as_bytes();
        Head { position, bytes, length: state.len() as u64, checksum }
    }

    /// The head at rest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Position { epoch, seq, chain, time } = self.position;
        let mut out = Vec::with_capacity(HEAD_SIZE);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&epoch.0.to_le_bytes());
        out.extend_from_slice(&seq.0.to_le_bytes());
        out.extend_from_slice(&chain.0);
        for number in [time.0, self.bytes, self.length] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.checksum);
        out.extend_from_slice(blake3::hash(&out).as_bytes());
        out
    }

    /// Reads a head at rest.
    ///
    /// # Errors
    /// It is of another version, cut short or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Head, SnapshotError> {
        let short = || SnapshotError::Short { have: bytes.len() as u64, need: HEAD_SIZE as u64 };
        let found = u16::from_le_bytes(*bytes.first_chunk().ok_or_else(short)?);
        if found != VERSION {
            return Err(SnapshotError::Version { found });
        }
        let bytes: &[u8; HEAD_SIZE] = bytes.try_into().map_err(|_| short())?;
        let (fields, checksum) = bytes.split_at(HEAD_SIZE - 32);
        if blake3::hash(fields).as_bytes() != checksum {
            return Err(SnapshotError::Damaged);
        }
        let number = |at: usize| {
            u64::from_le_bytes(fields[at..at + 8].try_into().expect("eight bytes were cut out"))
        };
        let sum = |at: usize| -> [u8; 32] {
            fields[at..at + 32].try_into().expect("32 bytes were cut out")
        };
        let position = Position {
            epoch: Epoch(number(2)),
            seq: Seq(number(10)),
            chain: Chain(sum(18)),
            time: Time(number(50)),
        };
        Ok(Head { position, bytes: number(58), length: number(66), checksum: sum(74) })
    }

    /// Whether this is the state that was written.
    ///
    /// # Errors
    /// It is cut short or damaged.
    pub fn check(&self, state: &[u8]) -> Result<(), SnapshotError> {
        let have = state.len() as u64;
        if have < self.length {
            return Err(SnapshotError::Short { have, need: self.length });
        }
        match *blake3::hash(state).as_bytes() == self.checksum {
            true => Ok(()),
            false => Err(SnapshotError::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back_or_says_why_not() {
        let (epoch, seq, chain, time) = (Epoch(3), Seq(70), Chain([9; 32]), Time(1 << 60));
        let head = Head::new(Position { epoch, seq, chain, time }, 12_345, b"state");
        let check = |change: fn(&mut Vec<u8>), expected: Result<Head, SnapshotError>| {
            let mut bytes = head.to_bytes();
            change(&mut bytes);
            assert_eq!(Head::from_bytes(&bytes), expected);
        };
        check(|_| {}, Ok(head));
        check(|bytes| bytes[11] ^= 1, Err(SnapshotError::Damaged));
        check(|bytes| bytes[0] = 1, Err(SnapshotError::Version { found: 1 }));
        check(|bytes| bytes[0] = 3, Err(SnapshotError::Version { found: 3 }));
        check(|bytes| bytes.truncate(1), Err(SnapshotError::Short { have: 1, need: 138 }));
        check(|bytes| bytes.truncate(100), Err(SnapshotError::Short { have: 100, need: 138 }));
        assert_eq!(head.check(b"state"), Ok(()));
        assert_eq!(head.check(b"State"), Err(SnapshotError::Damaged));
        assert_eq!(head.check(b"sta"), Err(SnapshotError::Short { have: 3, need: 5 }));
    }
}
