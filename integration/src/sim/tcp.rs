//! One end of a TCP-like connection: handshake, data both ways in order, retransmission of
//! everything unacknowledged after a timeout, FIN and RST. Small, but every segment is one that a
//! real stack could send.
//!
//! Bytes are a function of the flow's tag and their place in the stream, so the receiver knows
//! each byte that it must get. The opener's stream begins with a header that tells the acceptor
//! what to do.

use super::frame::{Segment, flag};
use penstock_event_schema::id::Time;

/// Bytes of the header in front of the opener's stream: upload, download, who closes first.
const HEADER: u64 = 12;
/// The first retransmission comes after this long, and later ones after up to
/// [`RETRANSMIT_MS_MAX`].
const RETRANSMIT_MS: u64 = 200;
const RETRANSMIT_MS_MAX: u64 = 1600;
/// Unacknowledged segments at most.
const WINDOW: u64 = 4;

/// How a connection ends once all is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The opener sends its FIN first.
    OpenerFirst,
    /// The acceptor sends its FIN first.
    AcceptorFirst,
    /// The opener sends RST.
    Reset,
    /// Nobody says anything.
    Silent,
}

/// What a connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes from the opener, besides the header.
    pub upload: u32,
    /// Bytes from the acceptor.
    pub download: u32,
    /// Bytes of data per segment.
    pub mss: u16,
    /// The sender of the upload waits this long between two segments.
    pub pace_ns: u64,
    /// How it ends.
    pub close: Close,
    /// The opener gives up after this many retransmissions without any progress.
    pub tries_max: u32,
}

/// How far a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not done.
    Running,
    /// Everything has arrived both ways, and the end has been said as planned.
    Finished,
    /// It will not be done.
    Failed(&'static str),
}

/// One end.
#[derive(Clone, Debug)]
pub struct Connection {
    tag: u32,
    opener: bool,
    /// The opener's plan; the acceptor's once the header has come.
    plan: Option<Transfer>,
    initial: u32,
    /// Positions in the own stream: 0 is the SYN, then data from 1 on, then the FIN.
    acknowledged: u64,
    next: u64,
    sent_max: u64,
    remote_initial: Option<u32>,
    /// The next position expected from the other end.
    expected: u64,
    header: Vec<u8>,
    remote_closed: bool,
    retransmit_at: Time,
    tries: u32,
    paced_until: Time,
    progress: Progress,
}

/// The byte at `offset` of one direction's stream, the opener's header aside.
fn pattern(tag: u32, opener: bool, offset: u64) -> u8 {
    let mixed = (u64::from(tag) << 1 | u64::from(opener)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ offset.wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 32) as u8 ^ (mixed >> 7) as u8
}

impl Connection {
    /// The opening end. Its first segment leaves at the next [`Connection::tick`].
    pub fn open(tag: u32, initial: u32, plan: Transfer, now: Time) -> Connection {
        Connection { plan: Some(plan), opener: true, ..Connection::accept(tag, initial, now) }
    }

    /// The accepting end, before it has seen the SYN.
    pub fn accept(tag: u32, initial: u32, now: Time) -> Connection {
        Connection {
            tag,
            opener: false,
            plan: None,
            initial,
            acknowledged: 0,
            next: 0,
            sent_max: 0,
            remote_initial: None,
            expected: 0,
            header: Vec::new(),
            remote_closed: false,
            retransmit_at: now,
            tries: 0,
            paced_until: now,
            progress: Progress::Running,
        }
    }

    /// The flow's tag.
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Nobody waits for it any more.
    pub fn give_up(&mut self) {
        if self.progress == Progress::Running {
            self.progress = Progress::Failed("given up");
        }
    }

    /// Whether this end has got its answer to a SYN or to a SYN-ACK.
    pub fn is_established(&self) -> bool {
        self.acknowledged > 0
    }

    /// Bytes of the own stream; none while the acceptor does not know.
    fn length(&self) -> Option<u64> {
        let plan = self.plan.as_ref()?;
        Some(if self.opener { HEADER + u64::from(plan.upload) } else { u64::from(plan.download) })
    }

    /// Bytes of the other end's stream.
    fn remote_length(&self) -> Option<u64> {
        let plan = self.plan.as_ref()?;
        Some(if self.opener { u64::from(plan.download) } else { HEADER + u64::from(plan.upload) })
    }

    fn all_acknowledged(&self) -> bool {
        self.length().is_some_and(|length| self.acknowledged > length)
    }

    fn all_received(&self) -> bool {
        self.remote_length().is_some_and(|length| self.expected > length)
    }

    /// When [`Connection::tick`] has something to do.
    pub fn next_timeout(&self) -> Option<Time> {
        if self.progress != Progress::Running {
            return None;
        }
        let unacknowledged =
            self.acknowledged < self.sent_max || (self.opener && self.sent_max == 0);
        let retransmit = unacknowledged.then_some(self.retransmit_at);
        let paced = (self.is_established() && self.may_send_data()).then_some(self.paced_until);
        retransmit.into_iter().chain(paced).min()
    }

    fn may_send_data(&self) -> bool {
        let Some(plan) = &self.plan else { return false };
        let window = WINDOW * u64::from(plan.mss);
        self.length().is_some_and(|length| self.next <= length)
            && self.next - self.acknowledged < window
    }

    /// Sends what is due.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Segment>) {
        if self.progress != Progress::Running {
            return;
        }
        if self.acknowledged < self.sent_max && self.retransmit_at <= now {
            self.tries += 1;
            if self.plan.is_some_and(|plan| self.opener && self.tries > plan.tries_max) {
                self.progress = Progress::Failed("no answer");
                return;
            }
            self.next = self.acknowledged;
            self.arm(now);
        }
        self.send(now, out);
    }

    fn arm(&mut self, now: Time) {
        let ms = RETRANSMIT_MS << self.tries.min(3);
        self.retransmit_at = now.plus_ms(ms.min(RETRANSMIT_MS_MAX));
    }

    fn segment(&self, position: u64, flags: u8, payload: Vec<u8>) -> Segment {
        let acknowledgement =
            self.remote_initial.map_or(0, |initial| initial.wrapping_add(self.expected as u32));
        Segment {
            flags: flags | if self.remote_initial.is_some() { flag::ACK } else { 0 },
            sequence: self.initial.wrapping_add(position as u32),
            acknowledgement,
            tag: self.tag,
            mss: (flags & flag::SYN != 0).then_some(1460),
            payload,
        }
    }

    fn send(&mut self, now: Time, out: &mut Vec<Segment>) {
        if self.next == 0 && (self.opener || self.remote_initial.is_some()) {
            out.push(self.segment(0, flag::SYN, Vec::new()));
            self.advance(1, now);
        }
        if !self.is_established() {
            return;
        }
        while self.may_send_data() && self.paced_until <= now {
            let plan = self.plan.expect("data is sent by plan");
            let length = self.length().expect("data is sent by plan");
            let bytes = (length + 1 - self.next).min(u64::from(plan.mss));
            let payload = (0..bytes).map(|n| self.byte(self.next - 1 + n)).collect();
            out.push(self.segment(self.next, 0, payload));
            self.advance(bytes, now);
            if self.opener {
                self.paced_until = Time(now.0 + plan.pace_ns);
            }
        }
        self.end(now, out);
    }

    fn advance(&mut self, positions: u64, now: Time) {
        if self.acknowledged == self.sent_max {
            self.arm(now);
        }
        self.next += positions;
        self.sent_max = self.sent_max.max(self.next);
    }

    /// Says the end when it is time.
    fn end(&mut self, now: Time, out: &mut Vec<Segment>) {
        let (Some(plan), Some(length)) = (self.plan, self.length()) else { return };
        if self.next != length + 1 || self.progress != Progress::Running {
            return;
        }
        let time_to = match (plan.close, self.opener) {
            (Close::OpenerFirst, true) => self.all_received(),
            (Close::AcceptorFirst, false) => self.all_received() && self.all_acknowledged(),
            (Close::AcceptorFirst, true) | (Close::OpenerFirst, false) => self.remote_closed,
            (Close::Reset | Close::Silent, true) => {
                if self.all_received() && self.all_acknowledged() {
                    if plan.close == Close::Reset {
                        out.push(self.segment(self.next, flag::RST, Vec::new()));
                    }
                    self.progress = Progress::Finished;
                }
                false
            }
            (Close::Reset | Close::Silent, false) => false,
        };
        if time_to {
            out.push(self.segment(self.next, flag::FIN, Vec::new()));
            self.advance(1, now);
        }
    }

    fn byte(&self, offset: u64) -> u8 {
        let plan = self.plan.as_ref().expect("bytes are sent by plan");
        match (self.opener, offset) {
            (false, _) => pattern(self.tag, false, offset),
            (true, 0..4) => plan.upload.to_be_bytes()[offset as usize],
            (true, 4..8) => plan.download.to_be_bytes()[offset as usize - 4],
            (true, 8) => match plan.close {
                Close::OpenerFirst => 0,
                Close::AcceptorFirst => 1,
                Close::Reset => 2,
                Close::Silent => 3,
            },
            (true, 9) => 0,
            (true, 10..12) => plan.mss.to_be_bytes()[offset as usize - 10],
            (true, _) => pattern(self.tag, true, offset),
        }
    }

    /// Takes a segment and answers it.
    ///
    /// # Errors
    /// It holds a byte that the other end never sent.
    pub fn handle(
        &mut self,
        segment: &Segment,
        now: Time,
        out: &mut Vec<Segment>,
    ) -> Result<(), String> {
        if segment.flags & flag::RST != 0 {
            if !self.is_ours(segment) {
                return Ok(());
            }
            let done = self.all_received() && self.all_acknowledged();
            if self.progress == Progress::Running {
                self.progress = if done { Progress::Finished } else { Progress::Failed("reset") };
            }
            return Ok(());
        }
        self.take_acknowledgement(segment, now);
        let owed = self.take_data(segment)?;
        let before = out.len();
        if self.progress == Progress::Running {
            self.send(now, out);
        }
        if owed && out.len() == before {
            out.push(self.segment(self.sent_max, 0, Vec::new()));
        }
        self.note_end();
        Ok(())
    }

    /// Whether a reset is meant for this connection and not for one before it between the same
    /// ends (RFC 9293, 3.10.7.3 and 3.10.7.4).
    fn is_ours(&self, reset: &Segment) -> bool {
        match self.remote_initial {
            None => {
                let acknowledged = reset.acknowledgement == self.initial.wrapping_add(1);
                reset.flags & flag::ACK != 0 && acknowledged && self.sent_max > 0
            }
            Some(initial) => {
                let expected = initial.wrapping_add(self.expected as u32);
                reset.sequence.wrapping_sub(expected) <= 0xffff
            }
        }
    }

    fn take_acknowledgement(&mut self, segment: &Segment, now: Time) {
        if segment.flags & flag::ACK == 0 {
            return;
        }
        let position = u64::from(segment.acknowledgement.wrapping_sub(self.initial));
        if position > self.acknowledged && position <= self.sent_max {
            self.acknowledged = position;
            self.next = self.next.max(position);
            self.tries = 0;
            self.arm(now);
        }
    }

    /// Takes what is new in a segment; true when it is to be acknowledged.
    fn take_data(&mut self, segment: &Segment) -> Result<bool, String> {
        if segment.flags & flag::SYN != 0 {
            match self.remote_initial {
                None => {
                    self.remote_initial = Some(segment.sequence);
                    self.expected = 1;
                }
                Some(initial) if initial != segment.sequence => {
                    return Err("a second SYN with another sequence number".into());
                }
                Some(_) if !self.opener && !self.is_established() => {
                    // The SYN-ACK may have been lost.
                    self.next = 0;
                }
                Some(_) => {}
            }
            return Ok(self.is_established() || self.opener);
        }
        let Some(initial) = self.remote_initial else { return Ok(false) };
        let position = u64::from(segment.sequence.wrapping_sub(initial));
        for (n, byte) in segment.payload.iter().enumerate() {
            if position + n as u64 == self.expected {
                self.take_byte(*byte)?;
            }
        }
        let end = position + segment.payload.len() as u64;
        let closes = segment.flags & flag::FIN != 0;
        if closes && end == self.expected && !self.remote_closed {
            if !self.all_received() {
                return Err(format!("the stream ends after {} bytes", self.expected - 1));
            }
            self.expected += 1;
            self.remote_closed = true;
        }
        Ok(closes || !segment.payload.is_empty())
    }

    fn take_byte(&mut self, byte: u8) -> Result<(), String> {
        let offset = self.expected - 1;
        if !self.opener && offset < HEADER {
            self.header.push(byte);
            if self.header.len() as u64 == HEADER {
                self.plan = Some(self.read_header());
            }
        } else if self.all_received() {
            return Err(format!("a byte behind the last one, at {offset}"));
        } else if byte != pattern(self.tag, !self.opener, offset) {
            return Err(format!("the byte at {offset} of the stream is {byte:#04x}"));
        }
        self.expected += 1;
        Ok(())
    }

    fn read_header(&self) -> Transfer {
        let word =
            |at: usize| u32::from_be_bytes(self.header[at..at + 4].try_into().expect("four bytes"));
        Transfer {
            upload: word(0),
            download: word(4),
            mss: (word(8) & 0xffff) as u16,
            pace_ns: 0,
            close: match self.header[8] {
                0 => Close::OpenerFirst,
                1 => Close::AcceptorFirst,
                2 => Close::Reset,
                _ => Close::Silent,
            },
            tries_max: u32::MAX,
        }
    }

    fn note_end(&mut self) {
        let own_closed = self.length().is_some_and(|length| self.acknowledged == length + 2);
        if self.progress == Progress::Running && own_closed && self.remote_closed {
            self.progress = Progress::Finished;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::random::Random;

    /// Runs two ends over a wire that loses `lost_permille`.
    fn check(plan: Transfer, lost_permille: u16, opener: Progress, acceptor: Progress) {
        let mut random = Random::new(u64::from(plan.upload));
        let mut now = Time(0);
        let mut ends =
            [Connection::open(5, 77, plan, now), Connection::accept(5, u32::MAX - 3, now)];
        for _ in 0..10_000 {
            for side in 0..2 {
                let mut out = Vec::new();
                ends[side].tick(now, &mut out);
                let mut to = 1 - side;
                while !out.is_empty() {
                    let mut answers = Vec::new();
                    for segment in out.drain(..).filter(|_| !random.happens(lost_permille)) {
                        ends[to]
                            .handle(&segment, now, &mut answers)
                            .expect("the bytes that were sent");
                    }
                    out = answers;
                    to = 1 - to;
                }
            }
            let next = ends.iter().filter_map(Connection::next_timeout).min();
            let Some(next) = next else { break };
            now = Time(next.0.max(now.0 + 1));
        }
        assert_eq!((ends[0].progress(), ends[1].progress()), (&opener, &acceptor), "{plan:?}");
    }

    #[test]
    fn all_arrives_whatever_is_lost() {
        use Progress::{Failed, Finished, Running};
        let plan = |close| Transfer {
            upload: 5_000,
            download: 9_000,
            mss: 700,
            pace_ns: 10,
            close,
            tries_max: 30,
        };
        for lost in [0, 150] {
            check(plan(Close::OpenerFirst), lost, Finished, Finished);
        }
        check(plan(Close::AcceptorFirst), 0, Finished, Finished);
        check(plan(Close::Silent), 100, Finished, Running);
        check(plan(Close::Reset), 0, Finished, Finished);
        check(plan(Close::OpenerFirst), 1000, Failed("no answer"), Running);
    }

    #[test]
    fn a_wrong_byte_is_noticed() {
        let plan = Transfer {
            upload: 1,
            download: 0,
            mss: 9,
            pace_ns: 0,
            close: Close::Silent,
            tries_max: 1,
        };
        let mut opener = Connection::open(5, 1, plan, Time(0));
        let mut acceptor = Connection::accept(5, 1, Time(0));
        let (mut there, mut back) = (Vec::new(), Vec::new());
        opener.tick(Time(0), &mut there);
        acceptor.handle(&there.remove(0), Time(0), &mut back).expect("a SYN");
        opener.handle(&back.remove(0), Time(0), &mut there).expect("a SYN-ACK");
        there[1].payload[3] ^= 1;
        acceptor.handle(&there[0], Time(0), &mut back).expect("a header");
        assert!(acceptor.handle(&there[1], Time(0), &mut back).is_err());
    }
}
