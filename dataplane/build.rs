//! Compiles the XDP programs of `bpf/` with clang. `nic/af_xdp` embeds what comes out.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources in `bpf/`, each of which becomes an object of its own in `OUT_DIR`.
const SOURCES: [&str; 3] = ["drive", "steer", "generate"];

/// What Debian 12 and Ubuntu call what is needed here.
const PACKAGES: &str = "apt-get install clang libbpf-dev linux-libc-dev";

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-env-changed=CPATH");
    for name in SOURCES {
        let source = Path::new("bpf").join(format!("{name}.bpf.c"));
        if let Err(problem) = compile(&source, &out.join(format!("{name}.bpf.o"))) {
            let first = problem.lines().next().unwrap_or_default();
            println!("cargo:warning={} was not built: {first}", source.display());
            eprintln!("\n{}: {problem}\n", source.display());
            std::process::exit(1);
        }
    }
}

/// Builds one object with BTF. An error says what is missing and how to get it.
fn compile(source: &Path, object: &Path) -> Result<(), String> {
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror"]);
    // <linux/types.h> includes <asm/types.h>, which Debian keeps in the folder of the host.
    if let Some(folder) = multiarch() {
        command.arg(format!("-I/usr/include/{folder}"));
    }
    let output = command
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .output()
        .map_err(|error| format!("cannot run {clang} ({error}): {PACKAGES}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("file not found") {
        return Err(format!("a header is missing: {PACKAGES}\n{text}"));
    }
    if text.contains("No available targets") || text.contains("unknown target") {
        return Err(format!("{clang} cannot compile for BPF: {PACKAGES}\n{text}"));
    }
    Err(text.into_owned())
}

/// Debian's name for the folder of the host's own headers.
fn multiarch() -> Option<String> {
    let host = std::env::var("HOST").ok()?;
    let architecture = host.split('-').next()?;
    let folder = match architecture {
        "i586" | "i686" => "i386-linux-gnu".to_owned(),
        "powerpc64le" => "powerpc64le-linux-gnu".to_owned(),
        other => format!("{other}-linux-gnu"),
    };
    Path::new("/usr/include").join(&folder).is_dir().then_some(folder)
}
