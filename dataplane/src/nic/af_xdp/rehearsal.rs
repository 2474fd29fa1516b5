//! The driver's program and its maps without a port: the kernel runs it on frames that are handed
//! in. For tests, and for measuring how long readings take.

use super::drive::{Drive, DriveSize, DriverSide};
use super::error::{AfXdpError, Bpf as _};
use crate::driver_cache::{Order, Said};
use aya::programs::{TestRun as _, TestRunOptions};

/// Index of the loopback interface, which frames that are handed in seem to come from.
const LOOPBACK: u32 = 1;
/// The place of the only port.
const PLACE: u8 = 0;
/// Bytes of a frame, and what is left beside it: a page holds no more (linux/net/bpf/test_run.c).
const FRAME_BYTES_MAX: usize = 3_520;

// enum xdp_action of linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driven {
    /// It left it alone, unchanged.
    Left,
    /// It sent it by port number 0, or by another one, which is said to be 1.
    Sent(u8, Vec<u8>),
}

/// See the module.
pub struct Rehearsal {
    drive: Drive,
    side: DriverSide,
}

impl Rehearsal {
    /// A program with room for so many directions of shard 0, and maps of its own.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn new(entries_max: u32) -> Result<Rehearsal, AfXdpError> {
        let size = DriveSize { shards: 1, entries_max };
        let mut drive = Drive::load(None, size, 0, &[("lo".to_owned(), LOOPBACK)], false)?;
        for index in 0..2 {
            drive.set_egress(index, LOOPBACK)?;
        }
        let (side, _) = drive.side(0);
        Ok(Rehearsal { drive, side })
    }

    /// What is in the maps.
    pub fn leftovers(&mut self) -> crate::driver_cache::Leftovers {
        self.drive.side(0).1
    }

    /// Carries out a shard's orders.
    pub fn carry_out(&mut self, orders: &mut Vec<Order>, said: &mut Vec<Said>) {
        self.side.carry_out(orders, said);
    }

    /// Counts `packets` packets in each slot, as if they had just come.
    pub fn count(&mut self, packets: u32) {
        self.side.count(packets);
    }

    /// Counts of frames, by name.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn tallies(&self) -> Result<Vec<(&'static str, u64)>, AfXdpError> {
        Ok(self.drive.tallies()?.into_iter().map(|(tally, count)| (tally.name(), count)).collect())
    }

    /// Runs the program on a frame that comes in at the first port, which has this hardware address
    /// and network then.
    ///
    /// # Errors
    /// The kernel does not run it.
    ///
    /// # Panics
    /// It changed a frame that it left alone, or did something else with it.
    pub fn run(
        &mut self,
        (mac, network): ([u8; 6], u32),
        frame: &[u8],
    ) -> Result<Driven, AfXdpError> {
        self.drive.set_port(PLACE, mac, Some(network), true)?;
        let mut out = vec![0; FRAME_BYTES_MAX];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let ran = self.drive.program()?.test_run(options).bpf(|| "run the program".to_owned())?;
        out.truncate(ran.data_size_out as usize);
        match ran.return_value {
            // There is no steering program that it could go on with.
            XDP_DROP => {
                assert_eq!(out, frame, "left alone, and changed");
                Ok(Driven::Left)
            }
            XDP_TX => Ok(Driven::Sent(PLACE, out)),
            XDP_REDIRECT => Ok(Driven::Sent(1, out)),
            other => panic!("action {other}"),
        }
    }
}
