//! `penstock lab`: a small network on this machine, with real clients, real servers and a node
//! between them, to see Penstock work and to play with.
//!
//! `run` builds it, sends traffic, looks at what arrived and takes it down again; `up`, `exec`
//! and `down` keep it for play. What it makes bears the prefix `penstock-lab-` or lies in
//! `/run/penstock-lab`, and nothing else is touched.

mod checks;
pub(crate) mod error;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod process;
mod report;
mod rows;
mod scene;
mod serve;
pub(crate) mod site;
mod topology;
pub(crate) mod traffic;
mod twin;

pub use error::Error;
pub use node::Subject;

use crate::cli::exit::Exit;
use crate::cli::lab::{Options, Step};
use crate::config::API_SOCKET;
use error::trying;
use namespace::Namespace;
use rows::{ROWS, Row};
use scene::Scene;
use site::Site;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;
use topology::{CLIENTS, FOLDER, NAMES, PREFIX, SERVERS};

/// Where the lab's servers listen.
pub const SERVER_PORT: u16 = serve::PORT;

/// Status after a signal, as shells give it: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Does it, and says how it went. To be called outside of an asynchronous runtime.
pub fn run(options: Options) -> ExitCode {
    let counts = matches!(options.step, Step::Run { .. });
    let result = match options.step {
        Step::Run { keep, only, driver_cache, subject } => {
            play(keep, &only, subject, driver_cache != "off")
        }
        Step::Up { subject } => up(subject),
        Step::Exec { name, command } => exec(&name, &command),
        Step::Down => down(),
        Step::Serve { name, port } => {
            serve::serve(&name, port).map(|()| ExitCode::SUCCESS).map_err(trying("serve"))
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        if counts && !matches!(error, Error::Interrupted) {
            // No row was played; whoever reads the last line still finds that the run failed.
            println!("0 passed, 1 failed");
        }
        match error {
            Error::Interrupted => ExitCode::from(INTERRUPTED),
            Error::NotRoot => Exit::Permission.into(),
            _ => Exit::Failed.into(),
        }
    })
}

/// Cleans the site when it goes out of scope, unless told otherwise: also in a panic.
struct Cleaning<'a> {
    site: &'a Site,
    keep: bool,
}

impl Drop for Cleaning<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.site.clean();
        }
    }
}

/// Takes the lab's ground, with what an earlier run left cleaned away, watched for signals.
fn take() -> Result<Site, Error> {
    let site = Site::take(PREFIX, Path::new(FOLDER))?;
    site.clean_on_signals()?;
    for (program, package) in PROGRAMS {
        installed(program, package)?;
    }
    Ok(site)
}

/// What the lab calls, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
    ("curl", "curl"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("traceroute", "traceroute"),
    ("ping", "iputils-ping"),
];

fn installed(program: &str, package: &'static str) -> Result<(), Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if found { Ok(()) } else { Err(Error::Missing { program: program.into(), package }) }
}

fn play(keep: bool, only: &[String], subject: Subject, drives: bool) -> Result<ExitCode, Error> {
    let rows = chosen(only);
    let begun = Instant::now();
    let site = take()?;
    let mut cleaning = Cleaning { site: &site, keep };
    let played = play_rows(&site, subject, &rows, drives);
    let scene = match played {
        Ok(scene) => scene,
        Err(error) => {
            // Whoever interrupts wants it gone; what went wrong by itself may be looked at.
            cleaning.keep = keep && !matches!(error, Error::Interrupted);
            if cleaning.keep {
                println!("left up as it is; take it down with: penstock lab down");
            }
            return Err(error);
        }
    };
    report::print(&scene);
    if keep {
        hints();
    } else {
        drop(cleaning);
        println!("cleaned up");
    }
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    println!("{}", scene.checks.summary());
    Ok(if scene.checks.failed() == 0 { Exit::Ok.into() } else { Exit::Failed.into() })
}

/// The name of a row, as the command line takes it.
///
/// # Errors
/// There is none of that name; the text names all.
pub(crate) fn row_name(name: &str) -> Result<String, String> {
    let known = ROWS.map(|row| row.name);
    let found = known.iter().find(|row| row.eq_ignore_ascii_case(name));
    let none = || format!("there is no such row; there are {}", known.join(", "));
    found.map(|row| (*row).to_owned()).ok_or_else(none)
}

/// The named rows, or all that do not take long.
fn chosen(only: &[String]) -> Vec<Row> {
    let wanted = |row: &Row| match only {
        [] => !row.is_long,
        _ => only.iter().any(|name| name == row.name),
    };
    ROWS.into_iter().filter(wanted).collect()
}

fn play_rows(site: &Site, subject: Subject, rows: &[Row], drives: bool) -> Result<Scene, Error> {
    let mut scene = Scene::build(site, subject, drives)?;
    apply(&mut scene, subject)?;
    println!("3. traffic");
    for (index, row) in rows.iter().enumerate() {
        println!("{}: {}", row.name, row.about);
        scene.checks.begin(row.name);
        set_client_ports(&scene, row, index)?;
        let begun = Instant::now();
        match (row.run)(&mut scene) {
            Ok(()) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => scene.checks.broken(error),
        }
        println!("   {:.1} s", begun.elapsed().as_secs_f64());
    }
    // Without a node that answers there is nothing to show.
    drop(scene.remember());
    Ok(scene)
}

/// Gives the clients ports that no earlier row had. Servers see them, and a connection by the same
/// port to the same server would wait until what is left of the earlier row's is over.
fn set_client_ports(scene: &Scene, row: &Row, index: usize) -> Result<(), Error> {
    const FIRST: usize = 30_000;
    const EACH: usize = 1_000;
    let first = FIRST + index * EACH;
    // A long row needs as many as there are by default (ip_local_port_range in ip-sysctl.rst).
    let (first, last) = if row.is_long { (32_768, 60_999) } else { (first, first + EACH - 1) };
    scene.set_client_ports(&format!("{first} {last}"))
}

/// Applies the lab's resources and shows them.
fn apply(scene: &mut Scene, subject: Subject) -> Result<(), Error> {
    if subject == Subject::Nftables {
        return Ok(());
    }
    println!("   apply -f {}:", scene.node.resources_path().display());
    for line in scene::PLAN.resources.lines() {
        println!("   | {line}");
    }
    for line in scene.node.apply()?.lines() {
        println!("   {line}");
    }
    Ok(())
}

fn up(subject: Subject) -> Result<ExitCode, Error> {
    let site = take()?;
    let mut cleaning = Cleaning { site: &site, keep: false };
    let mut scene = Scene::build(&site, subject, true)?;
    apply(&mut scene, subject)?;
    cleaning.keep = true;
    hints();
    Ok(ExitCode::SUCCESS)
}

fn hints() {
    println!("the lab is up. Try:");
    println!("  penstock lab exec {} -- curl -s http://10.90.0.80/", CLIENTS[0].name);
    println!("  penstock lab exec {} -- curl -s http://{}:8080/", CLIENTS[1].name, SERVERS[0].v4);
    println!("  penstock lab exec node -- penstock flow list");
    println!("  penstock lab down");
}

fn exec(name: &str, command: &[String]) -> Result<ExitCode, Error> {
    let shown = format!("lab exec {name}");
    if !NAMES.contains(&name) {
        let output = format!("there is no `{name}` in the lab; there are {}", NAMES.join(", "));
        return Err(Error::Command { command: shown, output });
    }
    let namespace = Namespace::named(PREFIX, name);
    if !namespace.exists() {
        let output = "the lab is not up\n  fix: penstock lab up".into();
        return Err(Error::Command { command: shown, output });
    }
    let Some((program, arguments)) = command.split_first() else { return Ok(ExitCode::SUCCESS) };
    let mut inside = namespace.command(program);
    // `penstock` in there means this binary and this lab's node.
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(all) {
            inside.env("PATH", path);
        }
    }
    inside.env("PENSTOCK_SOCKET", Path::new(FOLDER).join("run").join(API_SOCKET));
    // Only returns when it fails.
    Err(trying(shown)(replace(inside.args(arguments))))
}

fn replace(command: &mut Command) -> std::io::Error {
    command.exec()
}

fn down() -> Result<ExitCode, Error> {
    Site::take(PREFIX, Path::new(FOLDER))?.clean();
    println!("the lab is down");
    Ok(ExitCode::SUCCESS)
}
