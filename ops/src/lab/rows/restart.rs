//! A node that is killed: while it is away nobody answers in its place and nothing leaves
//! untranslated; when it is back, connections go on with the rewrite that they had.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{FAMILIES, Scene, end};
use crate::lab::serve::{Answer, PORT, RECORD_PORT};
use crate::lab::topology::SERVERS;
use crate::lab::traffic::capture::Capture;
use crate::lab::traffic::programs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a request may take: TCP's retransmission timer has backed off while nobody served.
const LIMIT: Duration = Duration::from_secs(15);

const RESETS: &str = "tcp[tcpflags] & tcp-rst != 0 or (ip6[6] == 6 and ip6[53] & 4 != 0)";
/// Service addresses, and private addresses on the way to the substituted connections' port.
const UNTRANSLATED: &str = "net 10.90.0.0/24 or net fd00:90::/64 or (tcp port 7000 and (net 192.168.10.0/24 or net fd00:10::/64))";

/// A connection that is kept.
struct Kept {
    name: String,
    stream: BufReader<TcpStream>,
    before: Answer,
}

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.remember()?;
    let mut kept = Vec::new();
    for family in FAMILIES {
        let ends = [
            (format!("{}: a balanced connection", family.name), end(&family.service(80), 80)?),
            (
                format!("{}: a substituted connection", family.name),
                end(family.of(&SERVERS[1]), RECORD_PORT)?,
            ),
            (format!("{}: a connection over a chain", family.name), end(&family.service(81), 80)?),
        ];
        for (name, to) in ends {
            kept.push(open(scene, name, to)?);
        }
    }
    let resets = Capture::start(&scene.site, &scene.at("client-1"), "eth0", RESETS, 100)?;
    let right = scene.at("right-switch");
    let untranslated = Capture::start(&scene.site, &right, "node", UNTRANSLATED, 100)?;

    // From here on the node's kernel would forward whatever reached it.
    scene
        .site
        .namespace("node")
        .set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    scene.node.kill()?;
    for connection in &mut kept {
        ask(connection)?;
    }
    let at = scene.at("client-1");
    let brief = ["--connect-timeout", "1"];
    let fetched = programs::curl(&scene.site, &at, ("10.90.0.80", 80), 1, false, &brief)?;
    // 28 is curl's "operation timed out"; a refused connection would be 7.
    scene.checks.equal(
        "a new connection while nobody serves is not answered",
        Some(28),
        fetched.code,
    );
    let fetched = programs::curl(&scene.site, &at, (NODE_ADDRESS, PORT), 1, false, &[])?;
    scene.checks.equal("the node's own address still answers", 1, fetched.answers.len());

    scene.node.launch()?;
    for connection in &mut kept {
        let after = answer(&mut connection.stream);
        let got = after.as_ref().map(|after| (after.server.clone(), after.peer));
        let expected = (connection.before.server.clone(), connection.before.peer);
        let name = format!("{} goes on with the same rewrite", connection.name);
        let ok = got.as_ref().is_ok_and(|got| *got == expected);
        scene.checks.that(name, format!("{expected:?}"), format!("{got:?}"), ok);
    }
    let resets = resets.finish(&scene.site, 0)?;
    scene.checks.that(
        "resets that the client got",
        0,
        format!("{} {}", resets.packets, resets.text),
        resets.packets == 0,
    );
    let untranslated = untranslated.finish(&scene.site, 0)?;
    scene.checks.that(
        "packets that left untranslated",
        0,
        format!("{} {}", untranslated.packets, untranslated.text),
        untranslated.packets == 0,
    );
    Ok(())
}

const NODE_ADDRESS: &str = crate::lab::topology::NODE_LEFT.v4;

fn open(scene: &Scene, name: String, to: SocketAddr) -> Result<Kept, Error> {
    let trial = || {
        let stream = TcpStream::connect_timeout(&to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok::<_, std::io::Error>(stream)
    };
    let stream = scene.at("client-1").enter(trial)?.map_err(trying(name.clone()))?;
    let answer_none = Answer { server: String::new(), peer: to, bytes: 0, sum: 0 };
    let mut kept = Kept { name, stream: BufReader::new(stream), before: answer_none };
    ask(&mut kept)?;
    kept.before = answer(&mut kept.stream).map_err(trying(kept.name.clone()))?;
    Ok(kept)
}

fn ask(kept: &mut Kept) -> Result<(), Error> {
    kept.stream
        .get_mut()
        .write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
        .map_err(trying(kept.name.clone()))
}

fn answer(stream: &mut BufReader<TcpStream>) -> std::io::Result<Answer> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
