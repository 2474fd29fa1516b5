//! The lab's server: HTTP and UDP that say who answers and whom they see.
//!
//! Plain threads on the standard library: it stands for "any program of a user", and knows
//! nothing of Penstock.
//!
//! - `GET /` → `{"server", "peer"}`; `GET /bytes/N` → N bytes; `POST /` → `{"server", "peer",
//!   "bytes", "sum"}` of the body; `GET /datagrams` → what came to the record port.
//! - UDP on the same port: answers `NAME PEER PAYLOAD`.
//! - UDP on [`RECORD_PORT`]: remembers each datagram and answers nothing. HTTP is there too.

use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

/// Where HTTP and the answering UDP port are.
pub(crate) const PORT: u16 = 8080;
/// Where datagrams are remembered.
pub(crate) const RECORD_PORT: u16 = 7000;

/// A datagram that was remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Received {
    /// Who sent it.
    pub(crate) from: SocketAddr,
    /// Its bytes, in hexadecimal.
    pub(crate) payload: String,
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Its name.
    pub(crate) server: String,
    /// Whom it saw.
    pub(crate) peer: SocketAddr,
    /// Length of the request's body.
    #[serde(default)]
    pub(crate) bytes: u64,
    /// Position-dependent sum of the request's body, see [`Sum`].
    #[serde(default)]
    pub(crate) sum: u64,
}

/// FNV-1a over bytes: finds bytes that are altered, missing or in another order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum(pub(crate) u64);

impl Default for Sum {
    fn default() -> Self {
        Sum(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
    /// Adds bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The body that `GET /bytes/N` has: byte number i is `(i * 31 + i / 256) mod 256`.
pub(crate) fn body_bytes(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|i| (i.wrapping_mul(31).wrapping_add(i >> 8) & 0xff) as u8).collect()
}

type Log = Arc<Mutex<Vec<Received>>>;

/// Serves until the process ends.
///
/// # Errors
/// When a port cannot be had.
pub(crate) fn serve(name: &str, port: u16) -> io::Result<()> {
    let any = Ipv6Addr::UNSPECIFIED;
    let listener = TcpListener::bind((any, port))?;
    let echo = UdpSocket::bind((any, port))?;
    let record = UdpSocket::bind((any, RECORD_PORT))?;
    let log = Log::default();
    let echo_name = name.to_owned();
    std::thread::spawn(move || answer_datagrams(&echo, &echo_name));
    let record_log = Arc::clone(&log);
    std::thread::spawn(move || record_datagrams(&record, &record_log));
    let second = TcpListener::bind((any, RECORD_PORT))?;
    let (second_name, second_log) = (name.to_owned(), Arc::clone(&log));
    std::thread::spawn(move || accept(&second, &second_name, &second_log));
    accept(&listener, name, &log)
}

fn accept(listener: &TcpListener, name: &str, log: &Log) -> io::Result<()> {
    for stream in listener.incoming() {
        let (name, log) = (name.to_owned(), Arc::clone(log));
        let stream = stream?;
        // A client that goes away in the middle is its own affair.
        std::thread::spawn(move || drop(answer_requests(stream, &name, &log)));
    }
    Ok(())
}

fn answer_datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let mut answer = format!("{name} {} ", plain(peer)).into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        // A refused answer shows at the client.
        drop(socket.send_to(&answer, peer));
    }
}

fn record_datagrams(socket: &UdpSocket, log: &Log) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let payload = hexadecimal(&buffer[..length]);
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(Received { from: plain(peer), payload });
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An IPv4 peer of an IPv6 socket as an IPv4 address.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn answer_requests(stream: TcpStream, name: &str, log: &Log) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = plain(stream.peer_addr()?);
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        if request.expects_continue {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut answer = Answer { server: name.to_owned(), peer, bytes: 0, sum: 0 };
        if request.length > 0 {
            (answer.bytes, answer.sum) = read_body(&mut reader, request.length)?;
        }
        let body = match request.path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
            Some(length) => body_bytes(0, length),
            None if request.path == "/datagrams" => {
                let log = log.lock().unwrap_or_else(PoisonError::into_inner);
                serde_json::to_vec(&*log)?
            }
            None => [serde_json::to_vec(&answer)?, b"\n".to_vec()].concat(),
        };
        let connection = if request.close { "close" } else { "keep-alive" };
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nServer: {name}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        )?;
        writer.write_all(&body)?;
        if request.close {
            break;
        }
    }
    Ok(())
}

struct Request {
    path: String,
    length: u64,
    close: bool,
    expects_continue: bool,
}

/// The most bytes of one header line: a bound on memory.
const LINE_BYTES_MAX: u64 = 8192;

fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let mut request = Request { path, length: 0, close: false, expects_continue: false };
    loop {
        line.clear();
        let length = reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        if length == 0 || header.is_empty() {
            return Ok(Some(request));
        }
        match header.split_once(": ") {
            Some(("content-length", value)) => request.length = value.parse().unwrap_or(0),
            Some(("connection", "close")) => request.close = true,
            Some(("expect", "100-continue")) => request.expects_continue = true,
            _ => {}
        }
    }
}

fn read_body(reader: &mut BufReader<TcpStream>, length: u64) -> io::Result<(u64, u64)> {
    let (mut sum, mut bytes, mut buffer) = (Sum::default(), 0, vec![0; 65_536]);
    let mut body = reader.by_ref().take(length);
    loop {
        let read = body.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, sum.0));
        }
        sum.add(&buffer[..read]);
        bytes += read as u64;
    }
}
