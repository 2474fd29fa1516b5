//! Network namespaces by `ip netns`, and how a thread or a program gets into one.

use super::error::{Error, trying};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where iproute2 keeps named namespaces.
const FOLDER: &str = "/run/netns";

/// A named network namespace that was made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of this full name, existing or not.
    pub(crate) fn named(prefix: &str, short: &str) -> Namespace {
        Namespace { name: format!("{prefix}{short}") }
    }

    /// Makes it, with its loopback up.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub(crate) fn create(&self) -> Result<(), Error> {
        command(Command::new("ip").args(["netns", "add", &self.name]))?;
        // Without this, neighbour solicitations wait for the link-local address to be proved
        // unique, which takes a second or two after a link comes up.
        self.set(&[
            ("ipv6/conf/default/dad_transmits", "0"),
            ("ipv6/conf/all/dad_transmits", "0"),
        ])?;
        self.batch("link set lo up\n")
    }

    /// Its full name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Whether it is there.
    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Runs lines of `ip` commands in it, all or the first that fails.
    ///
    /// # Errors
    /// What `ip` said.
    pub(crate) fn batch(&self, lines: &str) -> Result<(), Error> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(trying("ip -batch"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes()).map_err(trying("ip -batch"))?;
        }
        let output = child.wait_with_output().map_err(trying("ip -batch"))?;
        if output.status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Command { command: format!("ip -n {} -batch -", self.name), output })
    }

    /// A command that runs `program` in it. Only the network namespace changes: mounts stay
    /// those of the caller, so that a bpffs made inside is seen outside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `work` on a thread of its own inside it. Sockets made there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let what = format!("enter {}", self.name);
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(self.path()).map_err(trying(what.clone()))?;
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(trying(what.clone()))?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes settings below `/proc/sys/net`, such as `("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// When one cannot be written.
    pub(crate) fn set(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        self.enter(|| {
            for (name, value) in settings {
                let path = format!("/proc/sys/net/{name}");
                fs::write(&path, value).map_err(trying(path))?;
            }
            Ok(())
        })?
    }
}

/// The names of all namespaces that begin with `prefix`.
pub(crate) fn with_prefix(prefix: &str) -> Vec<Namespace> {
    let names = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .map(|name| Namespace { name })
        .collect()
}

/// Deletes a namespace, and with it its interfaces.
///
/// # Errors
/// What `ip` said.
pub(crate) fn delete(namespace: &Namespace) -> Result<(), Error> {
    command(Command::new("ip").args(["netns", "delete", namespace.name()])).map(drop)
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails.
pub(crate) fn command(command: &mut Command) -> Result<String, Error> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).output().map_err(trying(shown.clone()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Command { command: shown, output })
}

/// A command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
