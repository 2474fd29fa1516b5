//! The envelope of a record: CloudEvents attributes plus what orders and fences it.
//!
//! A record at rest is `header length (u16 LE) | header (JSON) | chain (32 bytes) | value (JSON)`.
//! At a broker the header's members become `ce_*` headers and the value stays as it is.

use crate::epoch::{Chain, Epoch, Seq};
use crate::id::Time;
use crate::topic::{Topic, TopicPartition};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::Write;

/// The attributes of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where it stands.
    pub at: TopicPartition,
    /// The reign that wrote it.
    pub epoch: Epoch,
    /// Its number there.
    pub seq: Seq,
    /// The node that wrote it.
    pub source: String,
    /// What it is, with version: `penstock.flow.opened.v1`.
    pub kind: Cow<'static, str>,
    /// When, since the Unix epoch; never earlier than the record before.
    pub time: Time,
    /// Whose it is; empty when nobody's.
    pub tenant: String,
    /// The failover unit it belongs to; empty when none.
    pub partition: String,
    /// The epoch of that failover unit.
    pub partition_epoch: u64,
}

/// An envelope, the chain after it, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The attributes.
    pub envelope: Envelope,
    /// The chain with this record in it.
    pub chain: Chain,
    /// The event as JSON.
    pub value: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    time: Time,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    tenant: Cow<'a, str>,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    partition: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_zero")]
    partitionepoch: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why bytes are no record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Fewer bytes than the frame says.
    #[error("the record is cut short: {have} bytes of at least {need}")]
    Short {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The header does not parse.
    #[error("the record's header does not parse: {0}")]
    Header(String),
    /// The id is not `topic/topic-partition/epoch/seq`.
    #[error("the record's id `{0}` is not topic/topic-partition/epoch/seq")]
    Id(String),
}

impl Envelope {
    /// The unique id: `topic/topic-partition/epoch/seq`.
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.at, self.epoch, self.seq)
    }

    /// The header as JSON, as the chain covers it.
    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        let mut id = [0u8; 64];
        let length = {
            let mut left = &mut id[..];
            write!(left, "{}/{}/{}", self.at, self.epoch, self.seq).expect("64 bytes hold an id");
            64 - left.len()
        };
        let header = Header {
            id: Cow::Borrowed(std::str::from_utf8(&id[..length]).expect("an id is ASCII")),
            source: Cow::Borrowed(&self.source),
            kind: Cow::Borrowed(&self.kind),
            time: self.time,
            tenant: Cow::Borrowed(&self.tenant),
            partition: Cow::Borrowed(&self.partition),
            partitionepoch: self.partition_epoch,
        };
        serde_json::to_writer(&mut out, &header).expect("a header is plain data");
        out
    }
}

impl Record {
    /// Seals `value` into the record that follows `previous`.
    pub fn seal(envelope: Envelope, value: Vec<u8>, previous: &Chain) -> Record {
        let chain = previous.next(&envelope.header(), &value);
        Record { envelope, chain, value }
    }

    /// Whether the record follows `previous` unaltered.
    pub fn follows(&self, previous: &Chain) -> bool {
        previous.next(&self.envelope.header(), &self.value) == self.chain
    }

    /// The record at rest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = self.envelope.header();
        let length = u16::try_from(header.len()).expect("names are bounded, so headers are");
        let mut out = Vec::with_capacity(2 + header.len() + 32 + self.value.len());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.chain.0);
        out.extend_from_slice(&self.value);
        out
    }

    /// Reads a record at rest.
    ///
    /// # Errors
    /// The bytes are cut short, or the header does not parse.
    pub fn from_bytes(bytes: &[u8]) -> Result<Record, EnvelopeError> {
        let need = |need: usize| EnvelopeError::Short { have: bytes.len(), need };
        let length = bytes.get(..2).ok_or(need(2))?;
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        let header = bytes.get(2..2 + length).ok_or(need(34 + length))?;
        let chain = bytes.get(2 + length..34 + length).ok_or(need(34 + length))?;
        let header: Header<'_> =
            serde_json::from_slice(header).map_err(|e| EnvelopeError::Header(e.to_string()))?;
        let (at, epoch, seq) =
            parse_id(&header.id).ok_or_else(|| EnvelopeError::Id(header.id.to_string()))?;
        Ok(Record {
            envelope: Envelope {
                at,
                epoch,
                seq,
                source: header.source.into_owned(),
                kind: Cow::Owned(header.kind.into_owned()),
                time: header.time,
                tenant: header.tenant.into_owned(),
                partition: header.partition.into_owned(),
                partition_epoch: header.partitionepoch,
            },
            chain: Chain(chain.try_into().expect("32 bytes were cut out")),
            value: bytes[34 + length..].to_vec(),
        })
    }
}

fn parse_id(id: &str) -> Option<(TopicPartition, Epoch, Seq)> {
    let mut parts = id.split('/');
    let topic = Topic::from_name(parts.next()?)?;
    let number = parts.next()?.parse().ok()?;
    let epoch = Epoch(parts.next()?.parse().ok()?);
    let seq = Seq(parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((TopicPartition { topic, number }, epoch, seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let envelope = Envelope {
            at: TopicPartition { topic: Topic::Flow, number: 12 },
            epoch: Epoch(3),
            seq: Seq(456),
            source: "node-1".into(),
            kind: "penstock.flow.opened.v1".into(),
            time: Time(1_700_000_000_000_000_000),
            tenant: "acme".into(),
            partition: "default".into(),
            partition_epoch: 0,
        };
        Record::seal(envelope, br#"{"a":1}"#.to_vec(), &Chain::default())
    }

    #[test]
    fn a_record_reads_back_and_follows() {
        let record = record();
        assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record.clone()));
        assert!(record.follows(&Chain::default()));
        assert!(!record.follows(&Chain([1; 32])));
        assert_eq!(record.envelope.id(), "penstock.flow/12/3/456");
    }

    #[test]
    fn every_altered_byte_is_found() {
        let bytes = record().to_bytes();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let sound = Record::from_bytes(&altered)
                .is_ok_and(|record| record.follows(&Chain::default()));
            assert!(!sound, "a flipped bit in byte {at} was not found");
        }
        for length in 0..bytes.len() {
            let sound = Record::from_bytes(&bytes[..length])
                .is_ok_and(|record| record.follows(&Chain::default()));
            assert!(!sound, "a cut at byte {length} was not found");
        }
    }
}
