//! The command line: what is understood, and the real program against a served node.

mod plane;

use clap::Parser;
use penstock_ops::cli::Arguments;
use plane::Served;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn arguments() {
    let check = |line: &str, expected: Result<&str, &str>| {
        let words = line.split_whitespace();
        match (Arguments::try_parse_from(std::iter::once("penstock").chain(words)), expected) {
            (Ok(arguments), Ok(part)) => {
                let shown = format!("{:?}", arguments.command);
                assert!(shown.contains(part), "{line}: {shown}");
            }
            (Err(error), Err(part)) => {
                let shown = error.to_string();
                assert!(shown.contains(part), "{line}: {shown}");
            }
            (got, _) => panic!("{line}: {got:?}"),
        }
    };
    check("apply -f a.yaml -f - --dry-run", Ok("files: [\"a.yaml\", \"-\"], dry_run: true"));
    check("apply", Err("--file <FILE>"));
    check("get networks", Ok("what: Kind(Network), name: None, output: Table"));
    check(
        "get TargetSet web -o yaml",
        Ok("what: Kind(TargetSet), name: Some(\"web\"), output: Yaml"),
    );
    check("get directives --limit 5", Ok("what: Directives"));
    check("get all -o json", Ok("what: All, name: None, output: Json"));
    check("get endpoitns", Err("did you mean `endpoints`?"));
    check(
        "get pods",
        Err(
            "write `networks`, `targetsets`, `endpoints`, `requirements`, `all`, `directives` or `node`",
        ),
    );
    check("describe requirement web", Ok("what: Kind(Requirement), name: Some(\"web\")"));
    check("describe directives web", Err("`directives` is no kind"));
    check("describe decision-node -o json", Ok("what: DecisionNode, name: None, output: Json"));
    check("delete endpoint a b", Ok("kind: Some(Endpoint), names: [\"a\", \"b\"]"));
    check("delete -f a.yaml", Ok("kind: None, names: [], files: [\"a.yaml\"]"));
    check("delete endpoint", Err("<NAME>"));
    check("delete endpoint a -f a.yaml", Err("cannot be used with"));
    check(
        "flow list --address 10.0.0.1 --protocol udp",
        Ok("address: Some(10.0.0.1), protocol: Some(udp)"),
    );
    check("flow list --protocol sctp", Err("is no protocol"));
    check(
        "flow explain clients/udp/10.0.0.1:5>10.0.0.2:53 -o json",
        Ok("network: Some(\"clients\"), protocol: Some(udp), source: 10.0.0.1:5"),
    );
    check("flow explain 10.0.0.1>10.0.0.2", Err("is no flow: write SOURCE:PORT"));
    check("flow watch 10.0.0.1:5>10.0.0.2:53", Ok("every: 1000, patience: None, output: Table"));
    check("top", Ok("every: 1s, count: None, output: Table"));
    check("top --every 0.5 --count 3 -o json", Ok("every: 500ms, count: Some(3), output: Json"));
    check("top --every 0", Err("write seconds, 0.1 to 3600"));
    check("top --count 0", Err("0 is not in 1.."));
    check("lab run --only t2,nope", Err("there is no such row; there are T2, T1,"));
    check("flow watch 10.0.0.1:5>10.0.0.2:53 --every 5", Err("5 is not in 100..=60000"));
    check("replay --data d --verify", Ok("verify: true, output: Table, question: None"));
    check(
        "replay --data d --until penstock.flow/1/2/3 get networks",
        Ok("until: Some(Record(TopicPartition { topic: Flow, number: 1 }, Seq(3)))"),
    );
    check("replay", Err("--data <DIR>"));
    check(
        "node --config n.yaml --print-config",
        Ok("config: \"n.yaml\", print_config: true, log_format: Text"),
    );
    check("lab run --keep", Ok("step: Run { keep: true,"));
    check(
        "lab exec client1 -- curl -s http://10.90.0.80/",
        Ok("name: \"client1\", command: [\"curl\", \"-s\","),
    );
    check("lab exec client1", Err("COMMAND"));
    check("bench nic --json --rounds 5", Ok("bench: Nic, json: true, rounds: 5"));
    check("bench recover --full", Ok("bench: Recover, json: false, rounds: 3, full: true"));
    check("bench nic --rounds 0", Err("0 is not in 3..=100"));
    check("detach --run-directory /r", Ok("run_directory: \"/r\""));
    check("completions bash", Ok("shell: Bash"));
}

/// What the program did: exit code, standard output, standard error.
fn penstock(socket: &Path, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .env("PENSTOCK_SOCKET", socket)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that does not read its input closes it; that is no error here.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

const WEB: &str = "\
apiVersion: penstock/v1
kind: Endpoint
metadata: {name: web}
spec:
  network: clients
  addresses: [10.90.0.80]
  ports: [{protocol: tcp, port: 80}]
---
apiVersion: penstock/v1
kind: Network
metadata: {name: clients}
spec: {tenant: acme, attachment: {port: left}}
---
apiVersion: penstock/v1
kind: TargetSet
metadata: {name: web}
spec:
  network: clients
  targets: [{name: s1, address: 10.2.0.11}, {name: s2, address: 10.2.0.12}]
";

/// One session, row by row: arguments, input, exit code, what the output and the error stream
/// hold (all of it when it ends with a newline).
#[tokio::test(flavor = "multi_thread")]
async fn a_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("api.sock");
    let check = |arguments: &str, input: &str, code: i32, out: &str, error: &str| {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        let found = penstock(&socket, &words, input);
        assert_eq!(found.0, code, "{arguments}: {found:?}");
        for (found, expected) in [(&found.1, out), (&found.2, error)] {
            let fits = match expected {
                "" => found.is_empty(),
                whole if whole.ends_with('\n') => found == whole,
                part => found.contains(part),
            };
            assert!(fits, "{arguments}\nfound: {found}\nexpected: {expected}");
        }
    };
    check(
        "get networks",
        "",
        4,
        "",
        "start one with `penstock node`, or name its socket with --socket",
    );
    check("top", "", 4, "", "start one with `penstock node`");
    let served = Served::at(&socket).await;
    let created = "KIND       NAME     OUTCOME            GENERATION\n\
                   Endpoint   web      created (dry run)  1\n\
                   Network    clients  created (dry run)  1\n\
                   TargetSet  web      created (dry run)  1\n";
    check("apply -f - --dry-run", WEB, 0, created, "");
    check("get all", "", 0, "", "none yet");
    check("apply -f - -o json", WEB, 0, "\"outcome\": \"created\"", "");
    check("apply -f -", WEB, 0, "unchanged", "");
    check("apply -f /no/such/file", "", 1, "", "cannot read /no/such/file");
    check(
        "apply -f -",
        "kind: Network\n\tx: 1\n",
        3,
        "",
        "<stdin>:2:1: a tab in the indentation; indent with spaces\n",
    );
    let refused =
        WEB.replace("port: left", "port: missing").replace("network: clients", "network: servers");
    check(
        "apply -f -",
        &refused,
        3,
        "",
        "\
<stdin>:5:12: spec.network: names no network: `servers`; create it
<stdin>:12:41: spec.attachment.port: the node does not take port `missing`; use `left` or `right`, or add it to `ports` of the node's configuration and start the node again
<stdin>:18:12: spec.network: names no network: `servers`; create it
",
    );
    check(
        "get networks",
        "",
        0,
        "NETWORK  TENANT  PORT  GENERATION\nclients  acme    left  1\n",
        "",
    );
    check("get endpoints web", "", 0, "web       clients  10.90.0.80  tcp/80", "");
    check("get endpoint web -o yaml", "", 0, "metadata:\n  generation: 1\n  name: web", "");
    check(
        "get endpoint nobody",
        "",
        6,
        "",
        "error: there is no Endpoint `nobody`; see `penstock get endpoints`\n",
    );
    check("describe targetset web", "", 0, "s2      3     900     75.0 %", "");
    check("describe targetset", "", 2, "", "which one?");
    check("describe decision-node", "", 0, "frozen     1 of the slots", "");
    check(
        "describe decision-node",
        "",
        0,
        "out      64             32                16 (25.0 %)",
        "",
    );
    check("describe decision-node -o json", "", 0, "\"medianMs\": 480", "");
    check("get node", "", 0, "replicas   1 (this node only)", "");
    check("get node", "", 0, "99.00 %", "");
    check("get directives", "", 0, "10.2.0.100:20000>10.2.0.11:8080", "");
    check("get directives", "", 0, "driver 5s  forward", "");
    check(
        "flow list --requirement web",
        "",
        0,
        "10.2.0.100:20000  10.2.0.11:8080",
        "1 of 2; more with --limit\n",
    );
    check("flow list -o json", "", 0, "\"total\": 2", "");
    check(
        "flow explain 10.0.0.1:5>10.0.0.2:53",
        "",
        6,
        "",
        "error: nothing is known of the flow 10.0.0.1:5>10.0.0.2:53; see `penstock flow list`\n",
    );
    check(
        "flow watch 10.0.0.1:5>10.0.0.2:53 --every 100 --patience 0",
        "",
        6,
        "",
        "waiting for a flow of 10.0.0.1:5>10.0.0.2:53; end with Ctrl-C\nerror: nothing is known",
    );
    check("flow watch 10.0.0.1:5>10.0.0.2:53 -o yaml", "", 2, "", "write table or json");
    check(
        "top --every 0.1 --count 2",
        "",
        0,
        "SERVED BY  PACKETS  SHARE\ndriver     0        -",
        "",
    );
    check(
        "top --every 0.1 --count 1 -o json",
        "",
        0,
        "{\"name\":\"slow_path\",\"perSecond\":0.0}",
        "",
    );
    check("top -o yaml", "", 2, "", "write table or json");
    check("get node name", "", 2, "", "this takes no name");
    let backup = penstock(&socket, &["get", "all", "-o", "yaml"], "").1;
    check("apply -f -", &backup, 0, "unchanged", "");
    check(
        "delete network clients",
        "",
        3,
        "",
        "error: Network `clients` cannot be deleted: has endpoints; delete its endpoints first\n",
    );
    // In the order that references ask for, whatever the order of the file.
    check(
        "delete -f -",
        WEB,
        0,
        "\
KIND       NAME     OUTCOME
Endpoint   web      deleted
TargetSet  web      deleted
Network    clients  deleted
",
        "",
    );
    check("delete network clients", "", 6, "", "there is no Network `clients`");
    check("delete network clients --ignore-missing", "", 0, "not there", "");
    check("completions bash", "", 0, "_penstock", "");
    check("nonsense", "", 2, "", "unrecognized subcommand");
    check("node --config /no/such/file", "", 3, "", "/no/such/file: cannot be read");
    served.stop().await;
}

/// Lines of a pipe, as they come.
fn lines(pipe: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let all = BufReader::new(pipe).lines().map_while(Result::ok);
        // The test may have seen enough.
        all.for_each(|line| drop(sender.send(line)));
    });
    lines
}

/// It goes on while the node is away, and ends well at Ctrl-C.
#[tokio::test(flavor = "multi_thread")]
async fn top_outlives_the_node() {
    const PATIENCE: Duration = Duration::from_secs(30);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("api.sock");
    let served = Served::at(&socket).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .env("PENSTOCK_SOCKET", &socket)
        .args(["top", "--every", "0.1", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let shown = lines(child.stdout.take().expect("piped"));
    let said = lines(child.stderr.take().expect("piped"));
    let first = shown.recv_timeout(PATIENCE).expect("a line");
    assert!(first.starts_with('{') && first.contains("\"node\":\"n1\""), "{first}");
    served.stop().await;
    let away = said.recv_timeout(PATIENCE).expect("a word about the node");
    assert!(away.contains("error: "), "{away}");
    assert_eq!(said.recv_timeout(PATIENCE).as_deref(), Ok("trying again"));
    shown.try_iter().for_each(drop);
    let served = Served::at(&socket).await;
    shown.recv_timeout(PATIENCE).expect("a line of the node that is back");
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is there");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    served.stop().await;
}

#[test]
fn the_configuration_is_printed_with_its_defaults() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("node.yaml");
    std::fs::write(&file, "ports: [left]\n").expect("a file");
    let file = file.display().to_string();
    let (code, out, error) =
        penstock(folder.path(), &["node", "--config", &file, "--print-config"], "");
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.contains("ports:\n- left\n") && out.contains("slots: 64\n"), "{out}");
}

#[test]
fn help_lists_every_exit_code() {
    let (code, out, _) = penstock(Path::new("/"), &["--help"], "");
    assert_eq!(code, 0);
    for number in 0..=6 {
        assert!(out.contains(&format!("\n  {number}  ")), "{out}");
    }
}
