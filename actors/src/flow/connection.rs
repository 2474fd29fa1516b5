//! What is known of a connection from the flags of its two directions.
//!
//! Shards report the flags that they saw, or-ed, per direction and some time apart, so the state
//! is merged from sets of flags and must not depend on the order in which reports arrive.

use penstock_event_schema::directive::Direction;
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::Time;
use penstock_event_schema::message::report::tcp_flag::{ACK, FIN, RST, SYN};
use serde::{Deserialize, Serialize};

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowState {
    /// Only the opener has been heard, or a TCP handshake is not complete.
    Opening,
    /// Both ends have been heard.
    Established,
    /// FIN both ways: ends after the linger.
    Finishing,
    /// RST: ends after the short linger.
    Reset,
}

impl FlowState {
    /// As in tables and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            FlowState::Opening => "opening",
            FlowState::Established => "established",
            FlowState::Finishing => "finishing",
            FlowState::Reset => "reset",
        }
    }

    /// Whether the connection is over and only lingers.
    pub const fn is_closing(self) -> bool {
        matches!(self, FlowState::Finishing | FlowState::Reset)
    }
}

/// Merged flags. Bit 0 of each set is the forward direction, bit 1 the reverse one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    /// Directions in which packets have been seen.
    seen: u8,
    /// Directions that have acknowledged something.
    acknowledged: u8,
    /// Directions that have sent FIN.
    finished: u8,
    /// When RST was last seen, by the shards' clock.
    reset: Option<Time>,
    /// Directions that went on after the RST.
    unimpressed: u8,
}

const BOTH: u8 = 0b11;

impl Connection {
    /// A connection of which nothing is known but that it lives: after a recovery.
    pub(super) fn established() -> Connection {
        Connection { seen: BOTH, acknowledged: BOTH, ..Connection::default() }
    }

    /// Takes what one direction did up to `last_seen` by the shards' clock.
    pub(super) fn merge(&mut self, direction: Direction, flags: u8, last_seen: Time) {
        let (bit, other_way) = match direction {
            Direction::Forward => (0b01, false),
            Direction::Reverse => (0b10, true),
        };
        self.seen |= bit;
        if flags & ACK != 0 {
            self.acknowledged |= bit;
        }
        let later = self.reset.is_some_and(|reset| last_seen > reset);
        if flags & SYN != 0 {
            // A new connection between the same ends while this one lingers: it goes on under
            // the same directive.
            self.finished &= !bit;
            if later && !other_way {
                self.reset = None;
            }
        }
        if flags & FIN != 0 {
            self.finished |= bit;
        }
        if flags & RST != 0 {
            self.reset = Some(self.reset.map_or(last_seen, |reset| reset.max(last_seen)));
            self.unimpressed = 0;
        } else if later {
            // Ends ignore an RST that does not fit their window (RFC 5961, 3.2); when both go on,
            // it was none of theirs.
            self.unimpressed |= bit;
            if self.unimpressed == BOTH {
                self.reset = None;
            }
        }
    }

    pub(super) fn state(&self, protocol: Protocol) -> FlowState {
        if protocol != Protocol::TCP {
            return if self.seen == BOTH { FlowState::Established } else { FlowState::Opening };
        }
        if self.reset.is_some() {
            FlowState::Reset
        } else if self.finished == BOTH {
            FlowState::Finishing
        } else if self.seen == BOTH && self.acknowledged & 0b01 != 0 {
            FlowState::Established
        } else {
            FlowState::Opening
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reverse};
    use FlowState::{Established, Finishing, Opening, Reset};

    fn check(reports: &[(Direction, u8, u64)], expected: FlowState) {
        let mut connection = Connection::default();
        for (direction, flags, at) in reports {
            connection.merge(*direction, *flags, Time(*at));
        }
        assert_eq!(connection.state(Protocol::TCP), expected, "{reports:?}");
    }

    #[test]
    fn flags_of_both_directions_make_a_state() {
        check(&[], Opening);
        check(&[(Forward, SYN, 1)], Opening);
        check(&[(Forward, SYN, 1), (Reverse, SYN | ACK, 2)], Opening);
        check(&[(Reverse, SYN | ACK, 2), (Forward, SYN | ACK, 3)], Established);
        check(&[(Forward, SYN | ACK | FIN, 3), (Reverse, SYN | ACK, 4)], Established);
        check(&[(Forward, SYN | ACK | FIN, 3), (Reverse, SYN | ACK | FIN, 4)], Finishing);
        check(&[(Reverse, SYN | ACK | FIN, 4), (Forward, SYN | ACK | FIN, 3)], Finishing);
        check(&[(Forward, SYN, 1), (Reverse, RST | ACK, 2)], Reset);
        check(&[(Reverse, RST | ACK, 2), (Forward, SYN, 1)], Reset);
    }

    #[test]
    fn a_connection_begins_again_in_the_linger() {
        let closed = [(Forward, SYN | ACK | FIN, 3), (Reverse, SYN | ACK | FIN, 4)];
        check(&[closed[0], closed[1], (Forward, SYN, 9)], Established);
        check(
            &[closed[0], closed[1], (Forward, SYN | ACK, 9), (Reverse, SYN | ACK, 9)],
            Established,
        );
        check(&[closed[0], closed[1], (Forward, ACK, 5)], Finishing);
        check(&[(Forward, SYN, 1), (Reverse, RST | ACK, 2), (Forward, SYN, 5)], Opening);
        check(&[(Forward, SYN, 1), (Reverse, RST, 2), (Forward, SYN, 5), (Reverse, RST, 6)], Reset);
    }

    #[test]
    fn a_reset_that_both_ends_ignore_ends_nothing() {
        let open = [(Forward, SYN | ACK, 1), (Reverse, SYN | ACK, 2), (Forward, RST, 3)];
        check(&open, Reset);
        check(&[open[0], open[1], open[2], (Reverse, ACK, 4)], Reset);
        check(&[open[0], open[1], open[2], (Reverse, ACK, 4), (Forward, ACK, 5)], Established);
        check(&[open[0], open[1], open[2], (Reverse, ACK, 4), (Forward, RST, 5)], Reset);
    }
}
