//! What a data directory is once and for all: the number of slots and the key of the hash that
//! places flows in them. Flows would be looked for in the wrong slot if either changed.

use penstock_event_schema::flow::SlotHash;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const FILE: &str = "identity.json";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("{}: {source}; see that dataDirectory can be read and written", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("{} is damaged ({reason}): restore it from a backup; without it the flows in this directory cannot be found", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The configuration asks for another number of slots.
    #[error("slots: the configuration says {asked}, but {} was made with {there}, which cannot change; write `slots: {there}`, or give the node a dataDirectory of its own", directory.display())]
    Slots {
        /// The data directory.
        directory: PathBuf,
        /// What is configured.
        asked: u16,
        /// What it was made with.
        there: u16,
    },
}

#[derive(Serialize, Deserialize)]
struct Identity {
    slots: u16,
    hash_key: [u8; 16],
}

/// The keyed hash of a data directory, made at the first start.
///
/// # Errors
/// The file cannot be used, is missing although there are records, or `slots` is not what the
/// directory was made with.
pub fn slot_hash(
    directory: &Path,
    slots: u16,
    has_records: bool,
) -> Result<SlotHash, IdentityError> {
    let path = directory.join(FILE);
    let system = |source: io::Error| IdentityError::System { path: path.clone(), source };
    let identity = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| IdentityError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_records => {
            return Err(IdentityError::Damaged { path, reason: "it is missing".into() });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let identity = Identity { slots, hash_key: random().map_err(system)? };
            let bytes = serde_json::to_vec(&identity).expect("an identity is plain data");
            // Beside its place first: a crash leaves either no identity or a whole one.
            let beside = path.with_extension("new");
            std::fs::write(&beside, bytes).map_err(system)?;
            std::fs::File::open(&beside).and_then(|file| file.sync_all()).map_err(system)?;
            std::fs::rename(&beside, &path).map_err(system)?;
            std::fs::File::open(directory).and_then(|folder| folder.sync_all()).map_err(system)?;
            identity
        }
        Err(error) => return Err(system(error)),
    };
    if identity.slots != slots || slots == 0 {
        return Err(IdentityError::Slots {
            directory: directory.into(),
            asked: slots,
            there: identity.slots,
        });
    }
    Ok(SlotHash::new(identity.hash_key, slots))
}

/// The keyed hash of a data directory that has one; nothing is made.
///
/// # Errors
/// The file is missing or cannot be used.
pub fn stored(directory: &Path) -> Result<SlotHash, IdentityError> {
    let path = directory.join(FILE);
    let damaged = |reason: String| IdentityError::Damaged { path: path.clone(), reason };
    let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => damaged("it is missing".into()),
        _ => IdentityError::System { path: path.clone(), source },
    })?;
    let Identity { slots, hash_key } =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if slots == 0 {
        return Err(damaged("it says 0 slots".into()));
    }
    Ok(SlotHash::new(hash_key, slots))
}

/// Random bytes of the kernel.
///
/// # Errors
/// The kernel has none to give.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
