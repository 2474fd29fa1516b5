//! What outlives the process: links and maps pinned in a file system that Penstock mounts under its
//! run directory.
//!
//! `<run>/bpf/<port>/link` keeps the steering program attached, so that what is ours is dropped, not
//! answered by the kernel, between a kill and the next start. The maps beside it are there to be
//! looked at with bpftool.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use rustix::mount::{MountFlags, UnmountFlags};
use tracing::info;

use super::error::{AfXdpError, Bpf as _, System as _};
use super::port::Port;

/// BPF_FS_MAGIC of linux/magic.h.
const MAGIC: u64 = 0xcafe_4a11;
/// File name of a port's pinned link.
const LINK: &str = "link";
/// Begins the name of a folder on its way to another one: longer than any interface's name.
const ASIDE: &str = "renamed-interface-";

/// What was removed from a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// Name of the interface.
    pub port: String,
    /// The kernel's id of the program that was attached. None when the port was already gone.
    pub program: Option<u32>,
}

/// Removes what an earlier run left: detaches its programs, removes pins and the file system.
/// Nothing there is an empty list. The caller makes sure that no process uses the run directory.
pub fn detach(run_dir: &Path) -> Result<Vec<Detached>, AfXdpError> {
    let root = root(run_dir);
    if !is_mounted(&root) {
        return Ok(Vec::new());
    }
    let mut detached = Vec::new();
    for folder in folders(&root)? {
        let program = PinnedLink::from_pin(folder.join(LINK))
            .ok()
            .and_then(|pinned| FdLink::from(pinned).info().ok())
            .map(|info| info.program_id())
            .filter(|&id| id != 0);
        remove(&folder)?;
        detached.push(Detached { port: port_of(&folder), program });
    }
    super::drive::Drive::unpin(&root)?;
    detached.sort_by(|one, other| one.port.cmp(&other.port));
    unmount(run_dir);
    Ok(detached)
}

/// Makes sure that there is a file system for pins, and returns its root.
pub(super) fn mount(run_dir: &Path) -> Result<PathBuf, AfXdpError> {
    let root = root(run_dir);
    fs::create_dir_all(&root).system(|| format!("create {}", root.display()))?;
    if !is_mounted(&root) {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("bpf", &root, "bpf", flags, c"mode=0700")
            .system(|| format!("mount a bpf file system at {}", root.display()))?;
    }
    Ok(root)
}

/// Unmounts the file system when no port has pins in it. Otherwise it stays.
pub(super) fn unmount(run_dir: &Path) {
    let root = root(run_dir);
    if is_mounted(&root) && is_free(&root) {
        // What fails here leaves an empty folder behind, no more.
        let _ = rustix::mount::unmount(&root, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&root);
    }
}

/// Whether it is certain that no port has pins.
pub(super) fn is_free(root: &Path) -> bool {
    folders(root).is_ok_and(|folders| folders.is_empty())
}

/// The folders of ports. Beside them lie files that the kernel puts there (BPF_PRELOAD).
fn folders(root: &Path) -> Result<Vec<PathBuf>, AfXdpError> {
    let what = || format!("read {}", root.display());
    let mut folders = Vec::new();
    for entry in fs::read_dir(root).system(what)? {
        let path = entry.system(what)?.path();
        if path.is_dir() && !path.ends_with(super::drive::FOLDER) {
            folders.push(path);
        }
    }
    Ok(folders)
}

/// The folder of a port's pins.
pub(super) fn folder(root: &Path, port: &str) -> PathBuf {
    // File names in a bpf file system have no dots, names of interfaces no colons.
    root.join(port.replace('.', ":"))
}

fn port_of(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().replace(':', ".")).unwrap_or_default()
}

/// The pinned link of a port, if there is one.
pub(super) fn pinned_link(folder: &Path) -> Result<Option<FdLink>, AfXdpError> {
    let path = folder.join(LINK);
    if !path.exists() {
        return Ok(None);
    }
    let pinned = PinnedLink::from_pin(&path).bpf(|| format!("open {}", path.display()))?;
    Ok(Some(FdLink::from(pinned)))
}

/// Has folders follow ports that were renamed while no process saw to them. Only the link tells
/// which interface it holds: all ports of a start run the same program.
pub(super) fn follow_names(root: &Path, ports: &[&Port]) -> Result<(), AfXdpError> {
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to).system(|| format!("rename {} to {}", from.display(), to.display()))
    };
    let mut moved = Vec::new();
    for old in folders(root)? {
        let Ok(Some(link)) = pinned_link(&old) else { continue };
        let Some((interface, program)) = held_by(&link) else { continue };
        let holds = |port: &&&Port| {
            port.interface == interface && port.program.is_some_and(|it| it.id == program)
        };
        let Some(port) = ports.iter().find(holds) else { continue };
        let new = folder(root, &port.name);
        if old != new {
            info!(port = port.name, was = port_of(&old), "a port with an XDP program was renamed");
            // Two ports may have exchanged their names.
            let aside = root.join(format!("{ASIDE}{interface}"));
            rename(&old, &aside)?;
            moved.push((aside, new));
        }
    }
    for (aside, new) in moved {
        // What is there by now belongs to no port that is wanted.
        remove(&new)?;
        rename(&aside, &new)?;
    }
    Ok(())
}

/// The interface that a link holds, and the kernel's id of the program there. The kernel tells it
/// of open descriptors. None where it does not, and when the interface is gone.
fn held_by(link: &FdLink) -> Option<(u32, u32)> {
    let info = link.info().ok()?;
    let interface = fs::read_dir("/proc/self/fdinfo").ok()?.flatten().find_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        let field = |name: &str| text.lines().find_map(|line| number_behind(line, name));
        (field("link_id:") == Some(info.id())).then(|| field("ifindex:")).flatten()
    });
    Some((interface.filter(|&index| index != 0)?, info.program_id()))
}

fn number_behind(line: &str, name: &str) -> Option<u32> {
    line.strip_prefix(name)?.trim().parse().ok()
}

/// Pins a port's new link.
pub(super) fn pin_link(folder: &Path, link: FdLink) -> Result<FdLink, AfXdpError> {
    fs::create_dir_all(folder).system(|| format!("create {}", folder.display()))?;
    let path = folder.join(LINK);
    let pinned = link.pin(&path).bpf(|| format!("pin {}", path.display()))?;
    Ok(FdLink::from(pinned))
}

/// Pins a map, in the place of one of an earlier run.
pub(super) fn pin_map(folder: &Path, name: &str, map: &aya::maps::Map) -> Result<(), AfXdpError> {
    let path = folder.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).system(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    map.pin(&path).bpf(|| format!("pin {}", path.display()))
}

/// Removes the pins of all ports but these: their programs are detached.
pub(super) fn remove_others(root: &Path, names: &[&str]) -> Result<(), AfXdpError> {
    for folder in folders(root)? {
        if !names.contains(&port_of(&folder).as_str()) {
            remove(&folder)?;
        }
    }
    Ok(())
}

/// Removes all pins of a port. The link is detached when no process has it open.
pub(super) fn remove(folder: &Path) -> Result<(), AfXdpError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).system(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn root(run_dir: &Path) -> PathBuf {
    run_dir.join("bpf")
}

fn is_mounted(root: &Path) -> bool {
    rustix::fs::statfs(root).is_ok_and(|stat| stat.f_type as u64 == MAGIC)
}
