//! How flows end.

use super::*;

#[test]
fn flows_of_a_drained_target_are_closed() {
    let other = "1/udp/10.0.0.6:40000>10.90.0.83:5000";
    let close = |target| Command::CloseTarget(TargetId(target));
    let stage = check(
        Stage::new(SlotLimits::default()),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (2, propose(1, KEY, "-", 1), "OPENED 1, 0 gets 1"),
            (3, close(2), ""),
            (4, nothing(), ""),
            (5, close(1), ""),
            (6, nothing(), "CLOSED Drained [0, 0], forget 1/tcp/10.0.0.5:40000>10.90.0.80:80"),
            // One that comes later is another matter.
            (7, ask(other, 0), "ask 7"),
            (8, propose(2, other, "-", 7), "OPENED 2, 0 gets 2"),
            (9, nothing(), ""),
        ],
    );
    assert_eq!(stage.slot.flow_count(), 1);
    // Until it is said again, whether or not others have been told and linger.
    check(
        stage,
        &[
            (10, ask(KEY, 0), "ask 10"),
            (11, propose(3, KEY, "-", 10), "OPENED 3, 0 gets 3"),
            (12, report(KEY, 12, RST), ""),
            (13, Command::Remove(key(other)), &format!("CLOSED Removed [0, 0], forget {other}")),
            (14, close(1), ""),
            (15, ask(other, 0), "ask 15"),
            (16, propose(4, other, "-", 15), "OPENED 4, 0 gets 4"),
            (17, close(1), ""),
            (18, nothing(), &format!("CLOSED Drained [0, 0], forget {other}")),
        ],
    );
    // What lingers keeps its port until the end of the linger.
    check(
        Stage::new(SlotLimits::default()),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (2, propose(1, KEY, "-", 1), "OPENED 1, 0 gets 1"),
            (3, report(KEY, 3, RST), ""),
            (4, close(1), ""),
            (5, nothing(), ""),
        ],
    );
}

#[test]
fn silence_ends_a_flow() {
    let closed = "CLOSED Idle [2, 2], forget 1/tcp/10.0.0.5:40000>10.90.0.80:80, release 1";
    let stage = check(
        Stage::open(),
        &[
            (10, relay(1, 10, SYN_ACK), ""),
            (20, report(KEY, 20, SYN_ACK), ""),
            (60_019, nothing(), "doubt 1"),
            (60_020, nothing(), closed),
            (60_021, doubt(1), "release 1"),
            (60_022, release(1), &format!("RELEASED, forget {KEY} {REVERSE}")),
            (60_023, report(KEY, 9, ACK), "forget 1/tcp/10.0.0.5:40000>10.90.0.80:80"),
            (60_023, relay(1, 9, ACK), "release 1"),
        ],
    );
    assert_eq!((stage.slot.flow_count(), stage.slot.binding_count()), (0, 0));
    // Never answered: the handshake's own limit.
    check(
        Stage::open(),
        &[
            (20, report(KEY, 20, tcp_flag::SYN), ""),
            (30_019, nothing(), ""),
            (30_020, nothing(), &closed.replace("[2, 2]", "[2, 0]")),
        ],
    );
}

#[test]
fn a_binding_that_is_used_is_not_doubted() {
    check(
        Stage::open(),
        &[
            (10, report(KEY, 10, SYN_ACK), ""),
            (10, relay(1, 10, SYN_ACK), ""),
            (50_000, report(REVERSE, 50_000, ACK), "relay 1"),
            (50_000, relay(1, 50_000, ACK), ""),
            (100_000, report(REVERSE, 100_000, ACK), "relay 1"),
            (100_000, relay(1, 100_000, ACK), ""),
            (159_999, nothing(), ""),
        ],
    );
}

#[test]
fn fin_and_rst_end_a_flow_after_their_linger() {
    let free = ", forget 1/tcp/10.0.0.5:40000>10.90.0.80:80, release 1";
    let established = [(10, report(KEY, 10, SYN_ACK), ""), (10, relay(1, 10, SYN_ACK), "")];
    let with = |rows: &[(u64, Command, &str)]| -> Stage {
        check(check(Stage::open(), &established), rows)
    };
    with(&[
        (100, report(KEY, 100, FIN_ACK), ""),
        (200, relay(1, 200, FIN_ACK), ""),
        (10_199, nothing(), ""),
        (10_200, nothing(), &format!("CLOSED Finished [4, 4]{free}")),
    ]);
    with(&[
        (100, relay(1, 100, RST), ""),
        (2_099, nothing(), ""),
        (2_100, nothing(), &format!("CLOSED Reset [2, 4]{free}")),
    ]);
    // One FIN is not the end.
    with(&[(100, report(KEY, 100, FIN_ACK), ""), (50_000, nothing(), "")]);
    // An RST that both ends ignore.
    with(&[
        (100, relay(1, 100, RST), ""),
        (200, relay(1, 200, ACK), ""),
        (300, report(KEY, 300, ACK), ""),
        (50_000, nothing(), ""),
    ]);
    // A new connection in the linger, by the directive that shards still have.
    with(&[
        (100, report(KEY, 100, FIN_ACK), ""),
        (200, relay(1, 200, FIN_ACK), ""),
        (300, report(KEY, 300, SYN_ACK), ""),
        (300, relay(1, 300, SYN_ACK), ""),
        (50_000, nothing(), ""),
    ]);
    // The same when the shard has forgotten it: the flow ends, another one begins.
    with(&[
        (100, report(KEY, 100, FIN_ACK), ""),
        (200, relay(1, 200, FIN_ACK), ""),
        (300, ask_late(KEY, 0), "0 gets 1"),
        (300, ask(KEY, 0), &format!("CLOSED Finished [4, 4]{free}, again for 0")),
        (300, ask(KEY, 0), "ask 300"),
    ]);
}

#[test]
fn an_operator_removes_a_flow_by_either_key() {
    let closed = "CLOSED Removed [0, 0], forget 1/tcp/10.0.0.5:40000>10.90.0.80:80, release 1";
    check(
        Stage::open(),
        &[
            (1, Command::Remove(key(REVERSE)), "remove"),
            (1, Command::Hear(TrackerMessage::Remove { flow: key(KEY) }), closed),
        ],
    );
    check(
        Stage::open(),
        &[
            (1, Command::Remove(key(KEY)), closed),
            (1, Command::Remove(key(KEY)), "no flow 1/tcp/10.0.0.5:40000>10.90.0.80:80"),
        ],
    );
}
