//! Transfers that go on while something happens to the node: each verifies its bytes as they come
//! and notes the longest time in which nothing came.

use crate::lab::error::{Error, trying};
use crate::lab::namespace::Namespace;
use crate::lab::serve::{Answer, Sum, body_bytes};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes a second of a paced transfer.
const RATE: f64 = 20e6;
/// Bytes that are read or written at a time.
const PIECE: usize = 65_536;
/// How long a transfer waits for its next byte.
const LIMIT: Duration = Duration::from_secs(20);
/// How far two datagrams of an exchange are apart.
const BEAT: Duration = Duration::from_millis(5);

/// What became of a transfer.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Bytes or datagrams that came, all of them verified.
    pub(crate) came: u64,
    /// Those that were sent and did not come; 0 for TCP.
    pub(crate) lost: u64,
    /// Who served, as each answer said; one name when all is well.
    pub(crate) served_by: Vec<String>,
    /// The longest time in which nothing came.
    pub(crate) pause: Duration,
}

/// One transfer at work.
pub(crate) struct Transfer {
    /// What it is, for checks.
    pub(crate) name: String,
    /// The client's end of it.
    pub(crate) client: SocketAddr,
    moved: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Outcome>>,
}

/// What the thread of a transfer keeps.
struct Progress {
    moved: Arc<AtomicU64>,
    begun: Instant,
    last: Instant,
    pause: Duration,
}

impl Progress {
    /// Notes that so much more has moved, and holds the rate.
    fn add(&mut self, bytes: usize) {
        let now = Instant::now();
        self.pause = self.pause.max(now - self.last);
        self.last = now;
        let moved = self.moved.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let due = Duration::from_secs_f64(moved as f64 / RATE);
        if let Some(ahead) = due.checked_sub(self.begun.elapsed()) {
            // The pace of the sender or reader, not a wait for anything.
            std::thread::sleep(ahead);
            self.last = Instant::now();
        }
    }
}

impl Transfer {
    /// Fetches `length` bytes over one connection.
    ///
    /// # Errors
    /// No connection.
    pub(crate) fn download(
        at: &Namespace,
        name: String,
        to: SocketAddr,
        length: usize,
    ) -> Result<Transfer, Error> {
        let stream = connect(at, &name, to)?;
        let client = stream.local_addr().map_err(trying(name.clone()))?;
        Ok(Transfer::start(name, client, move |progress, _| download(stream, length, progress)))
    }

    /// Sends `length` bytes over one connection.
    ///
    /// # Errors
    /// No connection.
    pub(crate) fn upload(
        at: &Namespace,
        name: String,
        to: SocketAddr,
        length: usize,
    ) -> Result<Transfer, Error> {
        let stream = connect(at, &name, to)?;
        let client = stream.local_addr().map_err(trying(name.clone()))?;
        Ok(Transfer::start(name, client, move |progress, _| upload(stream, length, progress)))
    }

    /// Sends a numbered datagram at each beat and takes the answers, until it is told that all is
    /// over.
    ///
    /// # Errors
    /// No socket.
    pub(crate) fn exchange(
        at: &Namespace,
        name: String,
        to: SocketAddr,
    ) -> Result<Transfer, Error> {
        let open = || {
            let socket = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" })?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(BEAT))?;
            Ok::<_, io::Error>(socket)
        };
        let socket = at.enter(open)?.map_err(trying(name.clone()))?;
        let client = socket.local_addr().map_err(trying(name.clone()))?;
        Ok(Transfer::start(name, client, move |progress, over| exchange(&socket, progress, over)))
    }

    fn start(
        name: String,
        client: SocketAddr,
        work: impl FnOnce(Progress, &AtomicBool) -> io::Result<Outcome> + Send + 'static,
    ) -> Transfer {
        let (moved, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let now = Instant::now();
        let progress =
            Progress { moved: Arc::clone(&moved), begun: now, last: now, pause: Duration::ZERO };
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || work(progress, &told));
        Transfer { name, client, moved, over, thread }
    }

    /// Bytes or datagrams so far.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Lets it come to its end.
    pub(crate) fn finish(self) -> io::Result<Outcome> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn connect(at: &Namespace, name: &str, to: SocketAddr) -> Result<TcpStream, Error> {
    let open = || {
        let stream = TcpStream::connect_timeout(&to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok::<_, io::Error>(stream)
    };
    at.enter(open)?.map_err(trying(name.to_owned()))
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Reads the head of an answer: who serves, and how long the body is.
fn head(stream: &mut impl BufRead) -> io::Result<(String, usize)> {
    let (mut server, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim().split_once(": ") {
            Some(("Server", value)) => value.clone_into(&mut server),
            Some(("Content-Length", value)) => length = value.parse().map_err(io::Error::other)?,
            _ if line.trim().is_empty() => return Ok((server, length)),
            _ => {}
        }
    }
}

fn download(stream: TcpStream, length: usize, mut progress: Progress) -> io::Result<Outcome> {
    let mut stream = BufReader::new(stream);
    write!(stream.get_mut(), "GET /bytes/{length} HTTP/1.1\r\nConnection: close\r\n\r\n")?;
    let (server, promised) = head(&mut stream)?;
    if promised != length {
        return Err(wrong(format!("{promised} bytes are promised, {length} were asked for")));
    }
    let (mut came, mut piece) = (0, vec![0; PIECE]);
    while came < length {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if piece[..read] != body_bytes(came, read) {
            return Err(wrong(format!("the bytes from {came} on are not those that were sent")));
        }
        came += read;
        progress.add(read);
    }
    let served_by = vec![server];
    Ok(Outcome { came: came as u64, lost: 0, served_by, pause: progress.pause })
}

fn upload(stream: TcpStream, length: usize, mut progress: Progress) -> io::Result<Outcome> {
    let mut stream = BufReader::new(stream);
    let ask = format!("POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.get_mut().write_all(ask.as_bytes())?;
    let (mut sent, mut sum) = (0, Sum::default());
    while sent < length {
        let piece = body_bytes(sent, PIECE.min(length - sent));
        stream.get_mut().write_all(&piece)?;
        sum.add(&piece);
        sent += piece.len();
        progress.add(piece.len());
    }
    let (_, promised) = head(&mut stream)?;
    let mut body = vec![0; promised];
    stream.read_exact(&mut body)?;
    let answer: Answer = serde_json::from_slice(&body)?;
    if (answer.bytes, answer.sum) != (length as u64, sum.0) {
        return Err(wrong(format!("{} bytes came, and not those that were sent", answer.bytes)));
    }
    let served_by = vec![answer.server];
    Ok(Outcome { came: answer.bytes, lost: 0, served_by, pause: progress.pause })
}

fn exchange(socket: &UdpSocket, mut progress: Progress, over: &AtomicBool) -> io::Result<Outcome> {
    let (mut sent, mut came) = (0u64, 0u64);
    let mut served_by: Vec<String> = Vec::new();
    let mut buffer = [0; 256];
    while !over.load(Ordering::Relaxed) {
        let payload = format!("{sent:08}");
        // While nobody serves, sending is refused at worst: counted as lost.
        drop(socket.send(payload.as_bytes()));
        sent += 1;
        let due = Instant::now() + BEAT;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let mut words = answer.split(' ');
            let who = format!("{} {}", words.next().unwrap_or(""), words.next().unwrap_or(""));
            if !served_by.contains(&who) {
                served_by.push(who);
            }
            came += 1;
            let now = Instant::now();
            progress.pause = progress.pause.max(now - progress.last);
            progress.last = now;
            progress.moved.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(Outcome { came, lost: sent - came.min(sent), served_by, pause: progress.pause })
}
