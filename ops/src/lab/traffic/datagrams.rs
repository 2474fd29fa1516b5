//! UDP senders of our own, on threads inside a client's namespace.

use crate::lab::error::{Error, trying};
use crate::lab::namespace::Namespace;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long an answer may take; far above a round trip, so that none is called lost by haste.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

fn socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.connect(to)?;
    Ok(socket)
}

/// A socket inside the namespace, connected to `to`.
///
/// # Errors
/// When it cannot be had.
pub(crate) fn open(namespace: &Namespace, to: SocketAddr) -> Result<UdpSocket, Error> {
    namespace.enter(|| socket(to))?.map_err(trying(format!("UDP socket to {to}")))
}

/// Sends `count` datagrams of one flow, each after the answer to the one before, and returns the
/// names of the servers that answered and how many answers came.
///
/// # Errors
/// When the socket fails; an answer that does not come is no error.
pub(crate) fn ask(
    namespace: &Namespace,
    to: SocketAddr,
    count: u32,
) -> Result<(BTreeSet<String>, u32), Error> {
    let socket = open(namespace, to)?;
    let (mut names, mut answers) = (BTreeSet::new(), 0);
    for number in 0..count {
        let payload = format!("datagram-{number}");
        if let Some(text) = exchange(&socket, &payload)? {
            names.insert(text.split(' ').next().unwrap_or_default().to_owned());
            answers += u32::from(text.ends_with(&payload));
        }
    }
    Ok((names, answers))
}

/// Sends a datagram and waits for an answer: its text, if one comes.
///
/// # Errors
/// When the socket fails; an answer that does not come is no error.
pub(crate) fn exchange(socket: &UdpSocket, payload: &str) -> Result<Option<String>, Error> {
    let mut buffer = [0; 2048];
    // That the datagram before was refused may be told by either call.
    match socket.send(payload.as_bytes()).and_then(|_| socket.recv(&mut buffer)) {
        Ok(length) => Ok(Some(String::from_utf8_lossy(&buffer[..length]).into_owned())),
        Err(error) if is_silence(&error) => Ok(None),
        Err(error) => Err(trying("exchange datagrams")(error)),
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
    )
}

/// What a stream of one flow came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Answers received.
    pub(crate) answered: u64,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

impl Stream {
    /// Packets both ways in a second.
    pub(crate) fn packets_per_second(&self) -> f64 {
        (self.sent + self.answered) as f64 / self.elapsed.as_secs_f64()
    }
}

/// Sends `count` datagrams of one flow with at most `window` unanswered, so that no ring between
/// here and there overflows.
///
/// # Errors
/// When the socket fails; lost datagrams are no error.
pub(crate) fn stream(
    namespace: &Namespace,
    to: SocketAddr,
    count: u64,
    window: u64,
) -> Result<Stream, Error> {
    let socket = open(namespace, to)?;
    let begun = Instant::now();
    let (mut sent, mut answered, mut lost, mut buffer) = (0, 0, 0, [0; 2048]);
    while answered + lost < count {
        while sent < count && sent < answered + lost + window {
            socket.send(&[b'x'; 18]).map_err(trying("send a datagram"))?;
            sent += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => answered += 1,
            // All that is under way is lost: nothing came for so long.
            Err(error) if is_silence(&error) => {
                lost = sent - answered;
                if lost > 20 * window {
                    break;
                }
            }
            Err(error) => return Err(trying("receive an answer")(error)),
        }
    }
    Ok(Stream { sent, answered, elapsed: begun.elapsed() })
}

/// What was sent without waiting for anything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Datagrams.
    pub(crate) count: u32,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

/// Sends `payload` over and over, so many a second and evenly, for so long.
///
/// # Errors
/// When the socket fails.
pub(crate) fn pour(
    socket: &UdpSocket,
    payload: &[u8],
    per_second: u32,
    length: Duration,
) -> Result<Sent, Error> {
    let begun = Instant::now();
    let mut count = 0;
    loop {
        let elapsed = begun.elapsed();
        if elapsed >= length {
            return Ok(Sent { count, elapsed });
        }
        // Late by no more than fits into the ring of a veth, however long this thread waited.
        let due = (elapsed.as_secs_f64() * f64::from(per_second)) as u32;
        for _ in 0..due.saturating_sub(count).min(64) {
            socket.send(payload).map_err(trying("send a datagram"))?;
            count += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
