//! `tcpdump` at one interface: what came in there and when, and whether its checksums are right.

use crate::lab::error::{Error, trying};
use crate::lab::namespace::{Namespace, command};
use crate::lab::process::Process;
use crate::lab::site::Site;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// TCP resets, of either version of IP.
pub(crate) const RESETS: &str =
    "tcp[tcpflags] & tcp-rst != 0 or (ip6[6] == 6 and ip6[53] & 4 != 0)";

/// A running capture of frames that come in at an interface.
#[derive(Debug)]
pub(crate) struct Capture {
    process: Process,
    file: PathBuf,
}

/// What `tcpdump -vv` says about a capture.
#[derive(Debug)]
pub(crate) struct Seen {
    /// One line or more per packet, as tcpdump prints them.
    pub(crate) text: String,
    /// How many packets there were.
    pub(crate) packets: usize,
    /// When each of them came, by the clock of the day.
    pub(crate) times: Vec<SystemTime>,
}

/// The header of a capture file and of one record in it (pcap-savefile(5)).
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

impl Capture {
    /// Starts, and returns once it sees frames. At most `packets_max` are kept.
    ///
    /// # Errors
    /// When tcpdump cannot be started or does not begin to listen.
    pub(crate) fn start(
        site: &Site,
        namespace: &Namespace,
        interface: &str,
        filter: &str,
        packets_max: u32,
    ) -> Result<Capture, Error> {
        let stem = format!("{}-{interface}", namespace.name());
        let number = fs::read_dir(site.folder()).into_iter().flatten().count();
        let file = site.folder().join(format!("{stem}-{number}.pcap"));
        let log = file.with_extension("tcpdump.log");
        let mut tcpdump = namespace.command("tcpdump");
        // Inbound only: what the host itself sends has partial checksums, rightly.
        tcpdump.args(["-i", interface, "-Q", "in", "-n", "-U", "--immediate-mode", "-Z", "root"]);
        tcpdump.args(["-c", &packets_max.to_string(), "-w"]).arg(&file).arg(filter);
        let process = site.start(tcpdump, "tcpdump", &log)?;
        site.wait_for("tcpdump listens", Duration::from_secs(5), || {
            fs::read_to_string(&log).ok().filter(|text| text.contains("listening on"))
        })?;
        Ok(Capture { process, file })
    }

    /// How many packets are in the file by now.
    pub(crate) fn count(&self) -> usize {
        self.times().len()
    }

    /// When the packets came that are in the file by now. The header of a record begins with
    /// seconds, microseconds and length.
    fn times(&self) -> Vec<SystemTime> {
        let bytes = fs::read(&self.file).unwrap_or_default();
        let word = |at: usize| -> Option<u32> {
            let word = bytes.get(at..at + 4)?;
            Some(u32::from_le_bytes(word.try_into().unwrap_or_default()))
        };
        let (mut at, mut times) = (FILE_HEADER, Vec::new());
        while let (Some(seconds), Some(micros), Some(length)) =
            (word(at), word(at + 4), word(at + 8))
        {
            at += RECORD_HEADER + length as usize;
            if at <= bytes.len() {
                let since = Duration::from_secs(seconds.into());
                times.push(UNIX_EPOCH + since + Duration::from_micros(micros.into()));
            }
        }
        times
    }

    /// Waits a little until `at_least` packets are there, stops, and reads them.
    ///
    /// # Errors
    /// When tcpdump cannot read its own file. Too few packets are no error: the caller looks.
    pub(crate) fn finish(mut self, site: &Site, at_least: usize) -> Result<Seen, Error> {
        let wait = Duration::from_secs(2);
        match site.wait_for("packets", wait, || (self.count() >= at_least).then_some(())) {
            Ok(()) | Err(Error::Late { .. }) => {}
            Err(error) => return Err(error),
        }
        self.process.stop()?;
        let times = self.times();
        let text = command(Command::new("tcpdump").args(["-n", "-vv", "-r"]).arg(&self.file))?;
        fs::remove_file(&self.file).map_err(trying("remove a capture"))?;
        Ok(Seen { text, packets: times.len(), times })
    }
}

impl Seen {
    /// How many checksums tcpdump has found right.
    pub(crate) fn sums_right(&self) -> usize {
        ["(correct)", "sum ok]"].iter().map(|words| self.text.matches(words).count()).sum()
    }

    /// The lines in which tcpdump has found a checksum wrong.
    pub(crate) fn sums_wrong(&self) -> Vec<&str> {
        let words =
            ["incorrect", "bad cksum", "bad udp cksum", "bad icmp6 cksum", "wrong icmp cksum"];
        self.text.lines().filter(|line| words.iter().any(|word| line.contains(word))).collect()
    }

    /// How many lines hold `words`.
    pub(crate) fn lines_with(&self, words: &str) -> usize {
        self.text.lines().filter(|line| line.contains(words)).count()
    }
}
