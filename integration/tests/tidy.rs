//! Reads the sources and fails where they leave the shape that ARCHITECTURE.md describes.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// All files below `folder` with the ending `ending`, relative to the workspace.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())) {
            let path = entry.expect("a folder's entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                let text = fs::read_to_string(&path).expect("sources are text");
                let name = path.strip_prefix(root()).expect("below the root");
                found.push((name.display().to_string(), text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} holds no .{ending} file");
    found
}

const CRATES: [&str; 5] = ["event-schema", "dataplane", "actors", "ops", "integration"];

fn sources() -> Vec<(String, String)> {
    CRATES.iter().flat_map(|name| files(name, "rs")).collect()
}

/// The code of a file: without comments, and without the unit tests at its end.
fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]").next().unwrap_or_default();
    before_tests
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Fails with every line of `found`, and says what to do.
fn check(found: &[String], mend: &str) {
    assert!(found.is_empty(), "{mend}:\n  {}", found.join("\n  "));
}

/// Lines of pure code that hold one of `words`.
fn offences(sources: &[(String, String)], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in sources {
        for (number, line) in code(text).lines().enumerate() {
            for word in words.iter().filter(|word| stands_in(word, line)) {
                found.push(format!("{name}:{}: `{word}`", number + 1));
            }
        }
    }
    found
}

/// Whether `word` stands in `line` and is not only the beginning of a longer word.
fn stands_in(word: &str, line: &str) -> bool {
    let goes_on = |next: char| next.is_alphanumeric() || next == '_';
    let ends_in_letter = word.ends_with(goes_on);
    line.match_indices(word).any(|(at, _)| {
        let next = line[at + word.len()..].chars().next();
        !(ends_in_letter && next.is_some_and(goes_on))
    })
}

#[test]
fn crates_point_one_way() {
    let forbidden: [(&str, &[&str]); 4] = [
        ("event-schema", &["dataplane", "actors", "ops", "integration"]),
        ("dataplane", &["actors", "ops", "integration"]),
        ("actors", &["dataplane", "ops", "integration"]),
        ("ops", &["integration"]),
    ];
    let mut found = Vec::new();
    for (name, others) in forbidden {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("manifest");
        for other in others {
            if manifest.contains(&format!("penstock-{other}")) {
                found.push(format!("{name}/Cargo.toml names penstock-{other}"));
            }
            let import = format!("penstock_{}", other.replace('-', "_"));
            let inside: Vec<_> =
                sources().into_iter().filter(|(file, _)| file.starts_with(name)).collect();
            found.extend(offences(&inside, &[&import]));
        }
    }
    check(&found, "crates point one way: event-schema <- dataplane, actors <- ops <- integration");
}

#[test]
fn faults_are_put_in_by_their_test_alone() {
    let feature = "deliberate-faults";
    let mut found = Vec::new();
    for name in CRATES {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("manifest");
        let by_default = manifest.lines().any(|line| line.starts_with("default = "));
        match name {
            "actors" | "integration" if by_default => found.push(format!("{name}: by default")),
            "actors" | "integration" => assert!(manifest.contains(feature), "{name} has it"),
            _ if manifest.contains(feature) => found.push(format!("{name}/Cargo.toml")),
            _ => {}
        }
    }
    check(&found, "deliberate faults are asked for on the command line, by ops/test.sh");
}

const PURE_ACTORS: [&str; 8] = [
    "actors/src/machine.rs",
    "actors/src/driver",
    "actors/src/seam.rs",
    "actors/src/network/",
    "actors/src/flow/",
    "actors/src/decision/",
    "actors/src/snapshot.rs",
    "actors/src/retention.rs",
];

fn is_pure(name: &str) -> bool {
    if let Some(rest) = name.strip_prefix("dataplane/src/") {
        return !["nic/af_xdp/", "actor/", "bench"].iter().any(|side| rest.starts_with(side));
    }
    PURE_ACTORS.iter().any(|place| name.starts_with(place)) || name.starts_with("event-schema/src/")
}

#[test]
fn machines_and_shards_are_pure() {
    let pure: Vec<_> = sources().into_iter().filter(|(name, _)| is_pure(name)).collect();
    assert!(pure.len() > 30, "only {} pure files were found", pure.len());
    let found = offences(
        &pure,
        &[
            "Instant",
            "SystemTime",
            "std::fs",
            "std::io::Read",
            "TcpStream",
            "UdpSocket",
            "std::thread",
            "tokio",
            "async fn",
            ".await",
            "Mutex",
            "RwLock",
            "ractor",
            "rand::",
            "RandomState",
            "HashMap::new",
            "HashMap::with_capacity(",
            "rocksdb",
            "println!",
            "std::env",
            "std::process",
            "libc::",
            "tracing::",
        ],
    );
    check(&found, "machines and shards know no clock, no I/O, no threads and no async");
}

#[test]
fn unsafe_stays_where_it_may() {
    let others: Vec<_> = sources()
        .into_iter()
        .filter(|(name, _)| {
            !name.starts_with("dataplane/src/nic/af_xdp") && name != "dataplane/src/prefetch.rs"
        })
        // Counting allocations needs an allocator, and an allocator is unsafe by its trait.
        .filter(|(name, _)| !name.ends_with("tidy.rs") && name != "dataplane/tests/allocation.rs")
        .collect();
    let found = offences(&others, &["unsafe ", "allow(unsafe_code)"]);
    check(&found, "unsafe stays in dataplane/src/nic/af_xdp and dataplane/src/prefetch.rs");
    let mut unreasoned = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| name.starts_with("dataplane/src/")) {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if line.contains("unsafe {")
                && !lines[at.saturating_sub(6)..=at].iter().any(|l| l.contains("SAFETY"))
            {
                unreasoned.push(format!("{name}:{}", at + 1));
            }
        }
    }
    check(&unreasoned, "each unsafe block has its reason in a SAFETY comment above it");
}

#[test]
fn the_oracle_shares_no_code_with_its_subject() {
    let parts = ["assembly", "client", "frame", "server", "tcp"];
    let parts = parts.map(|name| format!("integration/src/sim/{name}.rs"));
    let oracle: Vec<_> = sources().into_iter().filter(|(name, _)| parts.contains(name)).collect();
    assert_eq!(oracle.len(), parts.len(), "a part of the oracle is elsewhere");
    let found = offences(&oracle, &["penstock_dataplane", "penstock_actors"]);
    check(&found, "simulated hosts make and read frames by themselves");
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//!") {
            found.push(format!("{name}: does not begin with //!"));
        }
        if text.lines().count() > 700 {
            found.push(format!("{name}: {} lines, 700 at most", text.lines().count()));
        }
    }
    check(&found, "a file begins with what it is, and one above 700 lines has not been split yet");
}

#[test]
fn every_metric_says_what_it_means() {
    let tables = fs::read_to_string(root().join("ops/src/metrics.rs")).expect("the tables");
    let mut found = Vec::new();
    let mut seen = 0;
    for (name, text) in sources() {
        for line in code(&text).lines().filter(|line| line.contains("!(\"penstock_")) {
            let metric = line.split('"').nth(1).unwrap_or_default();
            seen += 1;
            if !tables.contains(&format!("    \"{metric}\" ")) {
                found.push(format!("{name}: {metric}"));
            }
        }
    }
    assert!(seen > 20, "only {seen} metrics were found: this looks for the wrong thing");
    check(&found, "write a line with help in METRICS or RECORDED (ops/src/metrics.rs)");
}

#[test]
fn names_say_what_they_name() {
    let vague = [
        "util", "utils", "common", "types", "manager", "helper", "helpers", "misc", "service",
        "handler",
    ];
    let found: Vec<_> = sources()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            Path::new(name).iter().any(|part| {
                let part = part.to_string_lossy();
                vague.contains(&part.trim_end_matches(".rs"))
            })
        })
        .collect();
    check(&found, "files are named after what they hold");
}

#[test]
fn tests_can_fail_and_do_not_wait() {
    let others: Vec<_> =
        sources().into_iter().filter(|(name, _)| !name.ends_with("tests/tidy.rs")).collect();
    let mut found = Vec::new();
    for (name, text) in &others {
        for (number, line) in text.lines().enumerate() {
            for word in ["#[ignore", "should_panic", "todo!(", "unimplemented!("] {
                if line.contains(word) {
                    found.push(format!("{name}:{}: `{word}`", number + 1));
                }
            }
        }
    }
    check(&found, "nothing is ignored or left open");
}

#[test]
fn every_invariant_names_a_checker_that_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut found = Vec::new();
    let mut invariants = 0;
    for (number, paragraph) in text.split("\n\n").enumerate() {
        if !paragraph.contains("**Architecture Invariant:**") {
            continue;
        }
        invariants += 1;
        let Some((_, checkers)) = paragraph.split_once("*Checked by*") else {
            found.push(format!("paragraph {number} names no checker: {paragraph}"));
            continue;
        };
        for path in checkers.split('`').filter(|part| part.contains('/') && part.contains('.')) {
            if !root().join(path).exists() {
                found.push(format!("`{path}` does not exist"));
            }
        }
    }
    assert!(invariants >= 5, "only {invariants} invariants were found");
    check(&found, "each invariant in ARCHITECTURE.md names its checker");
}
