//! Rows of the lab on real namespaces with real clients: each test plays one row of the lab
//! with the `penstock` binary, as an operator would.
//!
//! Needs root. The rows share the machine: the lab has a lock, and the next one waits for it.

use std::path::PathBuf;
use std::process::Command;

/// The binary that the build has put two folders above the tests.
fn penstock() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let binary = test.ancestors().nth(2).expect("tests lie in <profile>/deps").join("penstock");
    assert!(
        binary.is_file(),
        "{} is not there: run `cargo build --release` first, or ops/test.sh, which does it",
        binary.display()
    );
    binary
}

/// Plays one row and fails with everything that the lab printed.
fn check(row: &str) {
    check_run(&["--only", row]);
}

fn check_run(arguments: &[&str]) {
    let row = arguments.join(" ");
    let effective = Command::new("id").arg("-u").output().expect("id(1)").stdout;
    assert_eq!(
        String::from_utf8_lossy(&effective).trim(),
        "0",
        "lab tests need root: they make network namespaces and attach XDP programs; use sudo or ops/test.sh"
    );
    let output = Command::new(penstock())
        .args(["lab", "run"])
        .args(arguments)
        .output()
        .expect("the penstock binary runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lab run {row}: {}\n{printed}\n{errors}", output.status);
    let last = printed.lines().last().unwrap_or_default();
    let passed = last.strip_suffix(" passed, 0 failed").and_then(|count| count.parse::<u32>().ok());
    assert!(
        passed.is_some_and(|count| count > 0),
        "the last line is `{last}`\n{printed}\n{errors}"
    );
}

#[test]
fn t1_source_substitution_with_right_checksums() {
    check("T1");
}

#[test]
fn t2_a_balanced_address_and_flows_that_stick() {
    check("T2");
}

#[test]
fn t3_multicast_copies() {
    check("T3");
}

#[test]
fn t4_several_requirements_in_one_cache() {
    check("T4");
}

#[test]
fn t8_the_fast_path_sends_no_message() {
    check("T8");
}

#[test]
fn t12_packets_of_unknown_flows() {
    check("T12");
}

#[test]
fn what_no_requirement_matches_is_forwarded_untouched() {
    check("FORWARD");
}

#[test]
fn a_killed_node_comes_back_with_the_same_rewrites() {
    check("RESTART");
}

#[test]
fn t17_a_requirement_changes_under_its_flows() {
    check("T17");
}

#[test]
fn a_stopped_server_gets_no_new_flow() {
    check("HEALTH");
}

#[test]
fn a_draining_target_keeps_what_it_has() {
    check("DRAIN");
}

#[test]
fn t11_shards_forget_and_flows_do_not() {
    check("T11");
}

#[test]
fn t15_a_flow_that_carries_too_much_is_reset() {
    check("T15");
}

#[test]
fn data_folders_with_faults() {
    check("FAULTS");
}

#[test]
fn established_flows_stay_in_the_driver_also_when_the_node_is_killed() {
    check("DRIVER");
}

#[test]
fn a_silent_flows_port_is_anothers_also_when_the_driver_carried_it() {
    check("REUSE");
}

/// Without the driver's cache nothing is different for anybody.
#[test]
fn all_rows_hold_without_the_drivers_cache() {
    check_run(&["--driver-cache", "off"]);
}
