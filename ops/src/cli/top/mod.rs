//! `penstock top`: where packets go now, again and again.

mod rates;

use super::exit::{Exit, Failure};
use super::table::{self, count, duration};
use super::watch::now;
use super::{Output, declined, print, printed};
use crate::api::plane::NodeStatus;
use crate::client::Client;
use clap::Args;
use rates::{Rate, Rates, rates};
use serde::Serialize;
use std::fmt::Write;
use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Home, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Where packets go, and how often it is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
All rates are per second, from the node's counters at the last two readings. A packet is served by
  driver      the XDP program: it never reached the node's process
  shard       a shard that had its directive cached
  slow path   a tracker: no directive was cached, so the shard asked for it
When more packets than you expect come to shards, `left by the driver` says why: `unknown` are of
flows that it does not carry, `special` open or close connections, are fragments and the like. These
count what goes on to the kernel too. `penstock flow explain` says where a single flow is served.
Ports count what shards take and hand out, and as `lost` what found no room in their rings: more
shards help.

On a terminal the view is redrawn until Ctrl-C; elsewhere tables follow each other. While the node
is away this is said, and tried again.

Examples:
  penstock top
  penstock top --every 10 --count 6       a minute in six tables
  penstock top --count 1 -o json | jq '.places'")]
pub struct TopOptions {
    /// How often, in seconds: 0.1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub every: Duration,
    /// End after so many refreshes; without, at Ctrl-C.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// table for people, json (an object a line) for programs.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let found: Option<f64> = text.parse().ok().filter(|seconds| (0.1..=3_600.0).contains(seconds));
    found.map(Duration::from_secs_f64).ok_or_else(|| "write seconds, 0.1 to 3600".into())
}

/// Shows it until it is enough.
pub(super) fn top(options: &TopOptions, client: &Client) -> Result<(), Failure> {
    if options.output == Output::Yaml {
        let text = "error: --output: a stream has no YAML; write table or json";
        return Err(Failure::new(Exit::Usage, text));
    }
    super::wait(async {
        tokio::select! {
            ended = refresh(options, client) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

/// One refresh after the other.
async fn refresh(options: &TopOptions, client: &Client) -> Result<(), Failure> {
    let redraws = options.output == Output::Table && stdout().is_terminal();
    let mut before = (read(client).await?, Instant::now());
    if redraws {
        print(&format!("{CLEAR}first rates in {:?}\n", options.every));
    }
    let mut is_away = false;
    for number in 1.. {
        sleep(options.every).await;
        let is_read = match read(client).await {
            Ok(status) => {
                let read = Instant::now();
                let rates = rates(&before.0, &status, read - before.1);
                before = (status, read);
                is_away = false;
                let gap = if redraws { CLEAR } else { "" };
                let end = if redraws || options.output == Output::Json { "" } else { "\n" };
                printed(&format!("{gap}{}{end}", text(rates, options.output)))
            }
            Err(failure) if redraws => printed(&format!("{CLEAR}{failure}\ntrying again\n")),
            Err(failure) => {
                if !std::mem::replace(&mut is_away, true) {
                    eprintln!("{failure}\ntrying again");
                }
                true
            }
        };
        if !is_read || Some(number) == options.count {
            break;
        }
    }
    Ok(())
}

async fn read(client: &Client) -> Result<NodeStatus, Failure> {
    let reply = client.get("/v1/node").await?;
    if reply.status.is_success() { Ok(reply.json()?) } else { Err(declined(&reply)) }
}

/// A refresh for programs.
#[derive(Serialize)]
struct Refresh {
    time: String,
    #[serde(flatten)]
    rates: Rates,
}

fn text(rates: Rates, output: Output) -> String {
    match output {
        Output::Table | Output::Yaml => tables(&rates, &now()),
        Output::Json => {
            let refresh = Refresh { time: now(), rates };
            serde_json::to_string(&refresh).expect("it is plain data") + "\n"
        }
    }
}

fn tables(rates: &Rates, time: &str) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(out, "{name:<10} {value}").expect("writing to a String succeeds");
    };
    line("node", format!("{}, up for {}, at {time}", rates.node, duration(rates.uptime_ms)));
    if !rates.not_ready.is_empty() {
        line("not ready", rates.not_ready.join("; "));
    }
    line("rates", format!("a second, over {:.1} s", rates.over_ms as f64 / 1_000.0));
    line(
        "flows",
        format!(
            "{} live; {} opened, {} closed, {} questions to trackers",
            count(rates.flows),
            number(rates.opened_per_second),
            number(rates.closed_per_second),
            number(rates.requests_per_second)
        ),
    );
    let driver = &rates.driver;
    let carried = match driver.entries_max {
        0 => "carries no flows: its cache is off".to_owned(),
        most => format!(
            "{} of {} directions; {} promoted, {} demoted",
            count(driver.entries),
            count(most),
            number(driver.promoted_per_second),
            number(driver.demoted_per_second)
        ),
    };
    line("driver", carried);
    let all: f64 = rates.places.iter().map(|place| place.per_second).sum();
    let mut places = table::table(&["served by", "packets", "share"]);
    for Rate { name, per_second } in &rates.places {
        let share = match all {
            0.0 => "-".to_owned(),
            all => format!("{:.1} %", per_second * 100.0 / all),
        };
        places.add_row([name.replace('_', " "), number(*per_second), share]);
    }
    let mut ports = table::table(&["port", "received", "sent", "lost"]);
    for port in &rates.ports {
        let rates = [port.received_per_second, port.sent_per_second, port.lost_per_second];
        ports.add_row([vec![port.name.clone()], rates.map(number).to_vec()].concat());
    }
    let reasons = |head: &str, unit: &str, rates: &[Rate]| {
        let mut rows = table::table(&[head, unit]);
        for Rate { name, per_second } in rates {
            rows.add_row([name.clone(), number(*per_second)]);
        }
        rows
    };
    let dropped = reasons("dropped because", "packets", &rates.dropped);
    let left = reasons("left by the driver", "frames", &driver.left);
    for table in [places, dropped, left, ports].iter().filter(|table| !table.is_empty()) {
        write!(out, "\n{}", table::text(table)).expect("writing to a String succeeds");
    }
    out
}

/// A rate for people: small ones with a decimal, and none that is shown as 0 is something.
fn number(per_second: f64) -> String {
    match per_second {
        0.0 => "0".into(),
        ..0.1 => "<0.1".into(),
        ..9.95 => format!("{per_second:.1}"),
        more => count(more.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rates::{DriverRates, PortRates};

    #[test]
    fn rates_read_well() {
        let check = |rate: f64, shown: &str| assert_eq!(number(rate), shown);
        check(0.0, "0");
        check(0.02, "<0.1");
        check(1.25, "1.2");
        check(9.96, "10");
        check(1_234_567.4, "1 234 567");
    }

    #[test]
    fn only_what_there_was_is_shown() {
        let rate = |name: &str, per_second| Rate { name: name.into(), per_second };
        let rates = Rates {
            node: "n1".into(),
            uptime_ms: 330_000,
            not_ready: vec!["port left is down".into()],
            over_ms: 1_004,
            places: vec![rate("driver", 900.0), rate("shard", 90.0), rate("slow_path", 10.0)],
            dropped: Vec::new(),
            flows: 1_200,
            opened_per_second: 9.5,
            closed_per_second: 0.0,
            requests_per_second: 12.0,
            driver: DriverRates {
                entries: 2_000,
                entries_max: 65_536,
                promoted_per_second: 3.0,
                demoted_per_second: 0.0,
                left: vec![rate("special", 80.0), rate("unknown", 0.01)],
            },
            ports: vec![PortRates {
                name: "left".into(),
                received_per_second: 100.0,
                sent_per_second: 0.0,
                lost_per_second: 0.0,
            }],
        };
        let expected = "\
node       n1, up for 5m30s, at noon
not ready  port left is down
rates      a second, over 1.0 s
flows      1 200 live; 9.5 opened, 0 closed, 12 questions to trackers
driver     2 000 of 65 536 directions; 3.0 promoted, 0 demoted

SERVED BY  PACKETS  SHARE
driver     900      90.0 %
shard      90       9.0 %
slow path  10       1.0 %

LEFT BY THE DRIVER  FRAMES
special             80
unknown             <0.1

PORT  RECEIVED  SENT  LOST
left  100       0     0
";
        assert_eq!(tables(&rates, "noon"), expected);
    }
}
