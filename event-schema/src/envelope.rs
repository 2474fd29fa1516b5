//! The envelope of a record: CloudEvents attributes plus what orders and fences it.
//!
//! A record at rest is `header length (u16 LE) | header (JSON) | chain (32 bytes) | value (JSON)`.
//! At a broker the header's members become `ce_*` headers and the value stays as it is.

use crate::epoch::{Chain, Epoch, Seq};
use crate::id::Time;
use crate::topic::{Topic, TopicPartition};
use serde::Deserialize;
use std::borrow::Cow;

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

/// What a header holds, to be read; [`Attributes::write_header`] writes it.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    time: Time,
    #[serde(default, borrow)]
    tenant: Cow<'a, str>,
    #[serde(default, borrow)]
    partition: Cow<'a, str>,
    #[serde(default)]
    partitionepoch: u64,
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
        self.attributes().write_header(&mut out);
        out
    }

    fn attributes(&self) -> Attributes<'_> {
        Attributes {
            at: self.at,
            epoch: self.epoch,
            seq: self.seq,
            source: &self.source,
            kind: &self.kind,
            time: self.time,
            tenant: &self.tenant,
            partition: &self.partition,
            partition_epoch: self.partition_epoch,
        }
    }
}

/// The attributes of one record, borrowed from whoever seals it; see [`Envelope`].
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Where it stands.
    pub at: TopicPartition,
    /// The reign that writes it.
    pub epoch: Epoch,
    /// Its number there.
    pub seq: Seq,
    /// The node that writes it.
    pub source: &'a str,
    /// What it is, with version.
    pub kind: &'a str,
    /// When, since the Unix epoch.
    pub time: Time,
    /// Whose it is; empty when nobody's.
    pub tenant: &'a str,
    /// The failover unit it belongs to; empty when none.
    pub partition: &'a str,
    /// The epoch of that failover unit.
    pub partition_epoch: u64,
}

impl Attributes<'_> {
    /// Writes what [`Header`] reads. By hand, since every record of the journal pays for it.
    fn write_header(&self, out: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        out.extend_from_slice(b"{\"id\":\"");
        out.extend_from_slice(self.at.topic.name().as_bytes());
        for part in [u64::from(self.at.number), self.epoch.0, self.seq.0] {
            out.push(b'/');
            out.extend_from_slice(number.format(part).as_bytes());
        }
        out.push(b'"');
        write_member(out, "source", self.source);
        write_member(out, "type", self.kind);
        out.extend_from_slice(b",\"time\":");
        out.extend_from_slice(number.format(self.time.0).as_bytes());
        if !self.tenant.is_empty() {
            write_member(out, "tenant", self.tenant);
        }
        if !self.partition.is_empty() {
            write_member(out, "partition", self.partition);
        }
        if self.partition_epoch > 0 {
            out.extend_from_slice(b",\"partitionepoch\":");
            out.extend_from_slice(number.format(self.partition_epoch).as_bytes());
        }
        out.push(b'}');
    }
}

fn write_member(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if value.bytes().all(is_plain) {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, value).expect("a Vec takes all bytes");
    }
}

/// A record at rest on its way to a journal: its bytes, and what orders and fences it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Where it stands.
    pub at: TopicPartition,
    /// The reign that wrote it.
    pub epoch: Epoch,
    /// Its number there.
    pub seq: Seq,
    /// The chain with this record in it.
    pub chain: Chain,
    /// The record at rest; [`RecordView`] reads it.
    pub bytes: Vec<u8>,
}

impl Sealed {
    /// Seals the value that `encode` appends into the record that follows `previous`: one pass,
    /// one buffer. `size` is a guess of the record's length in bytes.
    pub fn new(
        attributes: &Attributes<'_>,
        previous: &Chain,
        size: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Sealed {
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(&[0; 2]);
        attributes.write_header(&mut bytes);
        let chain_at = bytes.len();
        let length = u16::try_from(chain_at - 2).expect("names are bounded, so headers are");
        bytes[..2].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[0; 32]);
        encode(&mut bytes);
        let chain = previous.next(&bytes[2..chain_at], &bytes[chain_at + 32..]);
        bytes[chain_at..chain_at + 32].copy_from_slice(&chain.0);
        let Attributes { at, epoch, seq, .. } = *attributes;
        Sealed { at, epoch, seq, chain, bytes }
    }
}

/// A record at rest, looked at in place.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    header: &'a [u8],
    /// The chain with this record in it.
    pub chain: Chain,
    /// The event as JSON.
    pub value: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Splits a record at rest.
    ///
    /// # Errors
    /// The bytes are cut short.
    pub fn new(bytes: &'a [u8]) -> Result<RecordView<'a>, EnvelopeError> {
        let need = |need: usize| EnvelopeError::Short { have: bytes.len(), need };
        let length = bytes.get(..2).ok_or(need(2))?;
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        let header = bytes.get(2..2 + length).ok_or(need(34 + length))?;
        let chain = bytes.get(2 + length..34 + length).ok_or(need(34 + length))?;
        let chain = Chain(chain.try_into().expect("32 bytes were cut out"));
        Ok(RecordView { header, chain, value: &bytes[34 + length..] })
    }

    /// Whether the record follows `previous` unaltered.
    pub fn follows(&self, previous: &Chain) -> bool {
        previous.next(self.header, self.value) == self.chain
    }

    /// Bytes of the record at rest.
    pub fn size(&self) -> usize {
        2 + self.header.len() + 32 + self.value.len()
    }

    /// The attributes.
    ///
    /// # Errors
    /// The header does not parse.
    pub fn envelope(&self) -> Result<Envelope, EnvelopeError> {
        let header: Header<'_> = serde_json::from_slice(self.header)
            .map_err(|e| EnvelopeError::Header(e.to_string()))?;
        let (at, epoch, seq) =
            parse_id(&header.id).ok_or_else(|| EnvelopeError::Id(header.id.to_string()))?;
        Ok(Envelope {
            at,
            epoch,
            seq,
            source: header.source.into_owned(),
            kind: Cow::Owned(header.kind.into_owned()),
            time: header.time,
            tenant: header.tenant.into_owned(),
            partition: header.partition.into_owned(),
            partition_epoch: header.partitionepoch,
        })
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
        let mut out = Vec::with_capacity(256 + self.value.len());
        out.extend_from_slice(&[0; 2]);
        self.envelope.attributes().write_header(&mut out);
        let length = u16::try_from(out.len() - 2).expect("names are bounded, so headers are");
        out[..2].copy_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.chain.0);
        out.extend_from_slice(&self.value);
        out
    }

    /// Reads a record at rest.
    ///
    /// # Errors
    /// The bytes are cut short, or the header does not parse.
    pub fn from_bytes(bytes: &[u8]) -> Result<Record, EnvelopeError> {
        let view = RecordView::new(bytes)?;
        let envelope = view.envelope()?;
        Ok(Record { envelope, chain: view.chain, value: view.value.to_vec() })
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
    fn headers_read_back_whatever_the_names() {
        for (source, tenant, partition, partition_epoch) in [
            ("node-1", "", "", 0),
            ("", "acme", "default", 7),
            ("a \"quoted\" \\ name", "line\nbreak", "\u{1}", u64::MAX),
            ("Zürich", "東京", "\u{7f}", 1),
        ] {
            let mut record = record();
            record.envelope.source = source.into();
            record.envelope.tenant = tenant.into();
            record.envelope.partition = partition.into();
            record.envelope.partition_epoch = partition_epoch;
            let read = Record::from_bytes(&record.to_bytes()).expect("it is whole");
            assert_eq!(read, record);
            let header = record.envelope.header();
            let json: serde_json::Value = serde_json::from_slice(&header).expect("it is JSON");
            assert_eq!(json.get("tenant").is_some(), !tenant.is_empty());
        }
    }

    #[test]
    fn what_is_sealed_in_one_pass_is_the_same_record() {
        let record = record();
        let attributes = record.envelope.attributes();
        let sealed = Sealed::new(&attributes, &Chain::default(), 0, |out| {
            out.extend_from_slice(&record.value);
        });
        assert_eq!(sealed.bytes, record.to_bytes());
        assert_eq!((sealed.seq, sealed.chain), (Seq(456), record.chain));
    }

    fn is_sound(bytes: &[u8]) -> bool {
        let first = Chain::default();
        let owned = Record::from_bytes(bytes).is_ok_and(|record| record.follows(&first));
        let in_place = RecordView::new(bytes).is_ok_and(|view| view.follows(&first));
        owned || in_place
    }

    #[test]
    fn every_altered_byte_is_found() {
        let bytes = record().to_bytes();
        assert!(is_sound(&bytes));
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(!is_sound(&altered), "a flipped bit in byte {at} was not found");
        }
        for length in 0..bytes.len() {
            assert!(!is_sound(&bytes[..length]), "a cut at byte {length} was not found");
        }
    }
}
