//! The node killed at many random moments under a thousand connections, some of them opened just
//! before: none is reset, and each keeps its server and its rewrite.
//!
//! The node is dead for much of the time, which shows in the timers of the ends. When the
//! acknowledgement of an answer dies with the node, and the next request comes a minute later and
//! acknowledges it, its server takes that minute for the round trip time (RFC 7323, 4.1) and, should
//! that request's answer be lost as well, sends it again a minute later. So a connection that stays
//! silent gets a second request: its answer shows the server what is missing (RFC 2018), and both
//! come at once if packets pass.

use crate::lab::error::{Error, trying};
use crate::lab::namespace::command;
use crate::lab::scene::{FAMILIES, Scene, end};
use crate::lab::serve::{Answer, RECORD_PORT};
use crate::lab::topology::SERVERS;
use crate::lab::traffic::capture::{Capture, RESETS};
use crate::lab::traffic::connection::Connection;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

const CONNECTIONS: usize = 1_000;
const KILLS: u64 = 200;
/// Connections that are opened before each kill, right before it.
const OPENED: usize = 2;
/// Connections on which a request is under way when the node is killed, and while it is dead.
const ASKED: usize = 10;
const ASKED_DEAD: usize = 2;
/// How long an answer may take until a second request is sent.
const SILENCE: Duration = Duration::from_secs(5);
/// Connections that may need one: the ends' timers, and not the node, are to blame.
const SILENT_MAX: usize = 20;
/// The longest from "ready" to the next kill.
const DELAY_MS_MAX: u64 = 300;

struct Kept {
    connection: Connection,
    before: Answer,
}

impl Kept {
    /// Whether an answer is from the same server to the same end.
    fn is_same(&self, answer: &io::Result<Answer>) -> bool {
        let ends = |answer: &Answer| (answer.server.clone(), answer.peer);
        answer.as_ref().is_ok_and(|answer| ends(answer) == ends(&self.before))
    }
}

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    raise_limit_of_files();
    let (four, six) = (FAMILIES[0], FAMILIES[1]);
    let ends = [
        end(&four.service(80), 80)?,
        end(four.of(&SERVERS[1]), RECORD_PORT)?,
        end(&four.service(81), 80)?,
        end(&six.service(80), 80)?,
    ];
    let mut kept = Vec::new();
    while kept.len() < CONNECTIONS {
        kept.push(open(scene, kept.len(), &ends)?);
    }
    let resets = Capture::start(&scene.site, &scene.at("client-1"), "eth0", RESETS, 100)?;
    let mut random: u64 = 0x2545_f491_4f6c_dd1d;
    let mut found = Found::default();
    for kill in 1..=KILLS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let first = random as usize % (kept.len() - ASKED - ASKED_DEAD);
        let (alive, dead) = (first..first + ASKED, first + ASKED..first + ASKED + ASKED_DEAD);
        // The moment at which it dies: not a wait for anything.
        std::thread::sleep(Duration::from_millis(random % DELAY_MS_MAX));
        for _ in 0..OPENED {
            kept.push(open(scene, kept.len(), &ends)?);
        }
        ask(&mut kept[alive.clone()])?;
        scene.node.kill()?;
        ask(&mut kept[dead.clone()])?;
        scene.node.launch()?;
        go_on(scene, &mut kept[alive.start..dead.end], &ends, &mut found);
        if kill.is_multiple_of(20) {
            println!("   {kill} of {KILLS} kills, {} connections", kept.len());
        }
    }
    ask(&mut kept)?;
    go_on(scene, &mut kept, &ends, &mut found);
    let Found { wrong, silent } = found;
    let shown: Vec<_> = wrong.iter().take(5).collect();
    let name = format!("connections of {} that do not go on", kept.len());
    scene.checks.that(name, 0, format!("{} {shown:?}", wrong.len()), wrong.is_empty());
    let name = "answers that took a second request";
    scene.checks.that(name, format!("at most {SILENT_MAX}"), silent, silent <= SILENT_MAX);
    let resets = resets.finish(&scene.site, 0)?;
    let got = format!("{} {}", resets.packets, resets.text);
    scene.checks.that("resets that the client got", 0, got, resets.packets == 0);
    let opened = scene.node.status()?.flows_opened;
    scene.checks.equal("flows decided since the last start", 0, opened);
    Ok(())
}

/// What has been found out about connections.
#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    silent: usize,
}

/// Takes the answers of connections that were asked.
fn go_on(scene: &Scene, some: &mut [Kept], ends: &[SocketAddr], found: &mut Found) {
    for one in some {
        let mut answers = vec![one.connection.answer_within(SILENCE)];
        if matches!(&answers[0], Err(error) if error.kind() == ErrorKind::WouldBlock) {
            found.silent += 1;
            explain(scene, one, ends);
            answers = match one.connection.ask("/") {
                Ok(()) => vec![one.connection.answer(), one.connection.answer()],
                Err(error) => vec![Err(error)],
            };
        }
        if !answers.iter().all(|answer| one.is_same(answer)) {
            explain(scene, one, ends);
            let wrong = format!("{}: {answers:?}, not {:?}", one.connection.name, one.before);
            println!("   {wrong}");
            found.wrong.push(wrong);
        }
    }
}

/// Shows what the node and both hosts know of a connection that is silent.
fn explain(scene: &Scene, kept: &Kept, ends: &[SocketAddr]) {
    let number = kept.connection.name.rsplit(' ').next().and_then(|it| it.parse::<usize>().ok());
    let (Some(number), Ok(own)) = (number, kept.connection.local()) else { return };
    let flow = format!("{own}>{}", ends[number % ends.len()]);
    for question in [&["flow", "explain", &flow][..], &["get", "node"]] {
        match scene.node.penstock(question) {
            Ok(told) => println!("{}", told.everything()),
            Err(error) => println!("   {error}"),
        }
    }
    let port = format!(":{}", own.port());
    for host in ["client-1", "server-1", "server-2", "server-3"] {
        let space = scene.at(host);
        let sockets = ["-tnoi", "sport", "=", &port, "or", "dport", "=", &port];
        for (program, arguments) in [("ss", &sockets[..]), ("ip", &["neigh"])] {
            match command(space.command(program).args(arguments)) {
                Ok(told) => println!("   {host}: {program}: {told}"),
                Err(error) => println!("   {host}: {error}"),
            }
        }
    }
}

fn open(scene: &Scene, number: usize, ends: &[SocketAddr]) -> Result<Kept, Error> {
    let (name, to) = (format!("connection {number}"), ends[number % ends.len()]);
    let mut connection = Connection::open(&scene.at("client-1"), &name, to)?;
    let before = connection.exchange().map_err(trying(name))?;
    Ok(Kept { connection, before })
}

fn ask(some: &mut [Kept]) -> Result<(), Error> {
    for Kept { connection, .. } in some {
        connection.ask("/").map_err(trying(connection.name.clone()))?;
    }
    Ok(())
}

/// A thousand sockets are more than a process may open unasked.
fn raise_limit_of_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}
