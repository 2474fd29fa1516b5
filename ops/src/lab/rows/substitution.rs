//! T1: private clients reach servers under pool addresses, with right checksums, both ways.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{FAMILIES, Family, Scene};
use crate::lab::serve::{Answer, PORT, Sum, body_bytes};
use crate::lab::topology::SERVERS;
use crate::lab::traffic::capture::Capture;
use crate::lab::traffic::programs::{self, host};
use std::collections::BTreeSet;
use std::fs;

/// Everything that comes from another network than the servers' own hosts.
const FILTER: &str = "(tcp or udp or icmp or icmp6) and (net 10.20.0.96/27 or net fd00:20::100/120 or net 192.168.10.0/24 or net fd00:10::/64)";
/// Bytes of the large bodies: some 1 400 segments each way.
const BODY: usize = 2_000_000;

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    let server = scene.at(SERVERS[0].name);
    let capture = Capture::start(&scene.site, &server, "eth0", FILTER, 20_000)?;
    for family in FAMILIES {
        for client in ["client-1", "client-2"] {
            requests(scene, family, client)?;
        }
        one_source_port(scene, family)?;
        body_out(scene, family)?;
        body_back(scene, family)?;
        let (at, address) = (scene.at("client-1"), family.of(&SERVERS[0]));
        let (answers, text) = programs::ping(&scene.site, &at, address, &[])?;
        let name = format!("{}: echo through source substitution", family.name);
        scene.checks.that(name, "3 answers", format!("{answers} answers: {text}"), answers == 3);
    }
    for family in FAMILIES {
        throughput(scene, family)?;
    }
    checksums(scene, capture)
}

fn is_pool(answer: &Answer, family: Family) -> bool {
    family.pool().contains(&answer.peer.ip().to_string().as_str())
}

fn requests(scene: &mut Scene, family: Family, client: &str) -> Result<(), Error> {
    let (at, address) = (scene.at(client), family.of(&SERVERS[0]));
    let fetched = programs::curl(&scene.site, &at, (address, PORT), 20, false, &[])?;
    let name = format!("{}: curl from {client}, the server sees the pool", family.name);
    let peers: BTreeSet<_> = fetched.answers.iter().map(|answer| answer.peer.ip()).collect();
    let ok =
        fetched.answers.len() == 20 && fetched.answers.iter().all(|answer| is_pool(answer, family));
    let got =
        format!("{} answers, peers {peers:?} {}", fetched.answers.len(), fetched.errors.trim());
    scene.checks.that(name, format!("20 answers, peers of {:?}", family.pool()), got, ok);
    Ok(())
}

/// Both clients use one source port to one server: the pool must tell them apart.
fn one_source_port(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let address = family.of(&SERVERS[0]);
    // A port for each family, since the first one's lingers at the client; below those that its
    // kernel gives out.
    let port = if family.is_six() { "30006" } else { "30004" };
    let (mut seen, mut errors) = (Vec::new(), String::new());
    for client in ["client-1", "client-2"] {
        let at = scene.at(client);
        let local = ["--local-port", port];
        let fetched = programs::curl(&scene.site, &at, (address, PORT), 1, true, &local)?;
        errors.push_str(fetched.errors.trim());
        seen.extend(fetched.answers.into_iter().filter(|answer| is_pool(answer, family)));
    }
    let ends: BTreeSet<_> = seen.iter().map(|answer| answer.peer).collect();
    let name = format!("{}: two clients with one source port", family.name);
    scene.checks.that(name, "two pool ends", format!("{ends:?} {errors}"), ends.len() == 2);
    Ok(())
}

fn body_out(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let file = scene.site.folder().join("body");
    let body = body_bytes(0, BODY);
    fs::write(&file, &body).map_err(trying(file.display().to_string()))?;
    let mut sum = Sum::default();
    sum.add(&body);
    let (at, address) = (scene.at("client-1"), family.of(&SERVERS[0]));
    let data = format!("@{}", file.display());
    let extra = ["--data-binary", data.as_str()];
    let fetched = programs::curl(&scene.site, &at, (address, PORT), 1, true, &extra)?;
    let got = fetched.answers.first().map(|answer| (answer.bytes, answer.sum));
    scene.checks.equal(
        format!("{}: {BODY} bytes to the server", family.name),
        Some((BODY as u64, sum.0)),
        got,
    );
    Ok(())
}

fn body_back(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let file = scene.site.folder().join("body-back");
    let url = format!("http://{}:{PORT}/bytes/{BODY}", host(family.of(&SERVERS[0])));
    let target = file.display().to_string();
    let arguments = ["-sS", "-m", "15", "-o", &target, &url];
    let finished = programs::run(&scene.site, &scene.at("client-2"), "curl", &arguments)?;
    let same = fs::read(&file).is_ok_and(|bytes| bytes == body_bytes(0, BODY));
    let name = format!("{}: {BODY} bytes back", family.name);
    let got = format!(
        "{} {}",
        if same { "the same bytes" } else { "other bytes" },
        finished.everything()
    );
    scene.checks.that(name, "the same bytes", got, same);
    drop(fs::remove_file(&file));
    Ok(())
}

fn throughput(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let address = family.of(&SERVERS[0]);
    let server = scene.at(SERVERS[0].name);
    let plans: [(&str, &str, &[&str]); 4] = [
        ("TCP out", "client-1", &[]),
        ("TCP back", "client-2", &["-R"]),
        ("UDP out", "client-1", &["-u", "-b", "30M", "-l", "1200"]),
        ("UDP back", "client-2", &["-u", "-b", "30M", "-l", "1200", "-R"]),
    ];
    // By IPv6 one each way.
    let step = if family.is_six() { 3 } else { 1 };
    for (what, client, extra) in plans.into_iter().step_by(step) {
        let measured = programs::iperf3(&scene.site, &scene.at(client), &server, address, extra)?;
        let megabits = measured.bits_per_second / 1e6;
        let lost = measured.lost_percent;
        let problem = measured.error.clone().unwrap_or_default();
        let got = match lost {
            Some(lost) => format!("{megabits:.0} Mbit/s, {lost:.2} % lost {problem}"),
            None => format!("{megabits:.0} Mbit/s {problem}"),
        };
        // 30 Mbit/s is some 3 000 packets a second, far below what any path here carries.
        let ok = measured.error.is_none() && megabits > 20.0 && lost.is_none_or(|lost| lost < 1.0);
        let name = format!("{}: iperf3 {what} from {client}", family.name);
        scene.checks.that(&name, "above 20 Mbit/s, less than 1 % lost", &got, ok);
        scene.figures.rates.push((format!("iperf3 {what}, {}", family.name), got));
    }
    Ok(())
}

fn checksums(scene: &mut Scene, capture: Capture) -> Result<(), Error> {
    let seen = capture.finish(&scene.site, 1000)?;
    let (right, wrong) = (seen.sums_right(), seen.sums_wrong());
    let name = "checksums of what came to the server, by tcpdump -vv";
    let got = format!(
        "{right} right, {} wrong of {} packets {}",
        wrong.len(),
        seen.packets,
        wrong.first().unwrap_or(&"")
    );
    scene.checks.that(name, "more than 1000 right, 0 wrong", got, right > 1000 && wrong.is_empty());
    let private: usize = [FAMILIES[0], FAMILIES[1]]
        .iter()
        .flat_map(|family| family.clients())
        .map(|address| seen.lines_with(address))
        .sum();
    scene.checks.equal("packets at the server that show a private address", 0, private);
    Ok(())
}
