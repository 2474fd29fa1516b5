//! A connection that is kept open, with requests on it one at a time.

use crate::lab::error::{Error, trying};
use crate::lab::namespace::Namespace;
use crate::lab::serve::Answer;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a request may take: TCP's retransmission timer has backed off while nobody served.
const LIMIT: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub(crate) struct Connection {
    /// What it is, for people.
    pub(crate) name: String,
    stream: BufReader<TcpStream>,
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Who answers.
    pub(crate) server: String,
    /// The length of the body.
    pub(crate) length: usize,
}

impl Connection {
    /// Opens one from a namespace.
    ///
    /// # Errors
    /// When nobody answers.
    pub(crate) fn open(at: &Namespace, name: &str, to: SocketAddr) -> Result<Connection, Error> {
        let trial = || {
            let stream = TcpStream::connect_timeout(&to, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            Ok::<_, io::Error>(stream)
        };
        let stream = at.enter(trial)?.map_err(trying(name))?;
        Ok(Connection { name: name.to_owned(), stream: BufReader::new(stream) })
    }

    /// The client's end.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// Ends it by a reset.
    ///
    /// # Errors
    /// When the kernel does not let it.
    pub(crate) fn reset(self) -> io::Result<()> {
        // A close with a linger of zero is an abort (RFC 9293, 3.9.1).
        rustix::net::sockopt::set_socket_linger(self.stream.get_ref(), Some(Duration::ZERO))?;
        Ok(())
    }

    /// Sends a request; the answer is read by another call.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn ask(&mut self, path: &str) -> io::Result<()> {
        write!(self.stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n")
    }

    /// Reads the answer to `/`.
    ///
    /// # Errors
    /// When the connection is gone, or silent.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let length = self.head()?.length;
        Ok(serde_json::from_slice(&self.body(length)?)?)
    }

    /// The same, with so much time for the answer to begin.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub(crate) fn answer_within(&mut self, limit: Duration) -> io::Result<Answer> {
        self.stream.get_ref().set_read_timeout(Some(limit))?;
        let answer = self.answer();
        self.stream.get_ref().set_read_timeout(Some(LIMIT))?;
        answer
    }

    /// Asks for `/` and reads the answer.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub(crate) fn exchange(&mut self) -> io::Result<Answer> {
        self.ask("/")?;
        self.answer()
    }

    /// Reads the head of an answer.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub(crate) fn head(&mut self) -> io::Result<Head> {
        let mut head = Head { server: String::new(), length: 0 };
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                head.length = value.trim().parse().map_err(io::Error::other)?;
            }
            if let Some(value) = line.strip_prefix("Server: ") {
                head.server = value.trim().to_owned();
            }
            if line.trim().is_empty() {
                return Ok(head);
            }
        }
    }

    /// Reads so many bytes of a body.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub(crate) fn body(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }
}
