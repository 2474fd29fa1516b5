//! A clean stop: the node ends in time with status 0 and leaves nothing in the kernel.

use crate::lab::error::Error;
use crate::lab::scene::Scene;
use crate::lab::serve::PORT;
use crate::lab::topology::NODE_LEFT;
use crate::lab::traffic::programs;
use std::fs;

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.remember()?;
    let running = attached(scene)?;
    scene.checks.equal("programs attached while it runs", vec![1, 1], running);
    let code = scene.node.stop()?;
    scene.checks.equal("exit status after SIGTERM", Some(0), code);
    let left = attached(scene)?;
    scene.checks.equal("programs attached afterwards", vec![0, 0], left);
    let run_directory = scene.node.socket_path();
    let pins = run_directory.with_file_name("bpf");
    let count = fs::read_dir(&pins).into_iter().flatten().count();
    scene.checks.equal("pins left", 0, count);
    let errors = fs::read_to_string(scene.node.log_path()).unwrap_or_default();
    let errors: Vec<_> =
        errors.lines().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
    scene.checks.that(
        "errors in the node's log",
        0,
        format!("{} {}", errors.len(), errors.first().unwrap_or(&"")),
        errors.is_empty(),
    );
    let at = scene.at("client-1");
    let fetched = programs::curl(&scene.site, &at, (NODE_LEFT.v4, PORT), 1, false, &[])?;
    scene.checks.equal("the node's own address answers", 1, fetched.answers.len());
    Ok(())
}

/// How many XDP programs are attached to the left and the right port.
fn attached(scene: &Scene) -> Result<Vec<usize>, Error> {
    let mut counts = Vec::new();
    for port in ["left", "right"] {
        let shown = programs::run(
            &scene.site,
            &scene.at("node"),
            "ip",
            &["-d", "link", "show", "dev", port],
        )?;
        counts.push(shown.output.matches("prog/xdp").count());
    }
    Ok(counts)
}
