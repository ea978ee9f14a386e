//! Which instance keeps a directory to its capacity: the one that holds a lock on it (`flock` on the directory itself,
//! so no lock file is needed). The system releases the lock when the instance's store is dropped or the process ends in
//! any way.

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::limits::{LOCK_TABLE_BYTES_MAX, OWNED_DIRECTORIES_MAX};
use crate::sync::lock;
use crate::tier::CapacityOwner;
use crate::wasm::contract::failed;
use crate::wasm::contract::types::{Error, Ownership};

type Answer<T> = std::result::Result<T, Error>;

/// The directories that an instance owns. Dropping it releases them.
pub(in crate::wasm) struct Owned {
    directories: Vec<Held>,
    owners: Arc<Owners>,
}

/// A lock, and the directory that it is on.
pub(in crate::wasm) struct Held {
    identity: Identity,
    directory: File,
}

/// Identifies a directory by device and inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// Tries to lock a directory, unless the instance owns it already.
pub(in crate::wasm) struct Question {
    owned: Vec<Identity>,
}

/// The outcome of an attempt to lock a directory.
pub(in crate::wasm) enum Tried {
    /// The instance owns it already.
    Known,
    Locked(Held),
    Another(Option<u32>),
    ReadOnly,
}

/// The directories that the instances of a backend own, for its status.
#[derive(Debug, Default)]
pub(in crate::wasm) struct Owners(Mutex<OwnershipStatus>);

#[derive(Debug, Default)]
struct OwnershipStatus {
    n_owned: usize,
    /// The last owner that was found when an attempt failed.
    another: Option<CapacityOwner>,
}

impl Owners {
    /// Returns which process keeps the backend's directory to its capacity; `None` if the backend has never tried to.
    pub(in crate::wasm) fn owner(&self) -> Option<CapacityOwner> {
        let reported = lock(&self.0);
        if reported.n_owned > 0 { Some(CapacityOwner::ThisProcess) } else { reported.another }
    }
}

impl Owned {
    pub(in crate::wasm) fn new(owners: &Arc<Owners>) -> Self {
        Self { directories: Vec::new(), owners: Arc::clone(owners) }
    }

    pub(in crate::wasm) fn question(&self) -> Question {
        Question { owned: self.directories.iter().map(|held| held.identity).collect() }
    }

    /// Records the outcome of an attempt, and returns it for the guest.
    pub(in crate::wasm) fn note(&mut self, tried: Answer<Tried>) -> Answer<Ownership> {
        let mut reported = lock(&self.owners.0);
        reported.n_owned -= self.directories.len();
        // A removed directory has no owner any more.
        self.directories.retain(|held| !is_removed(&held.directory));
        let answer = tried.and_then(|tried| {
            reported.another = None;
            Ok(match tried {
                Tried::Locked(_) if self.directories.len() >= OWNED_DIRECTORIES_MAX => {
                    let why = format!(
                        "the instance owns {OWNED_DIRECTORIES_MAX} directories, and may not own more"
                    );
                    return Err(Error::Other(why));
                }
                Tried::Locked(held) => {
                    self.directories.push(held);
                    Ownership::This
                }
                Tried::Known => Ownership::This,
                Tried::Another(process) => {
                    reported.another = Some(CapacityOwner::Another { process });
                    Ownership::Another(process)
                }
                Tried::ReadOnly => Ownership::ReadOnly,
            })
        });
        reported.n_owned += self.directories.len();
        answer
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        lock(&self.owners.0).n_owned -= self.directories.len();
    }
}

impl Question {
    /// Tries to lock a directory. May block.
    pub(in crate::wasm) fn ask(&self, directory: File) -> Answer<Tried> {
        let identity = Identity::of(&directory).map_err(|error| failed(&error.into()))?;
        if self.owned.contains(&identity) {
            return Ok(Tried::Known);
        }
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Tried::Locked(Held { identity, directory })),
            Err(Errno::WOULDBLOCK) => Ok(Tried::Another(identity.locked_by())),
            // Errors of file systems that have no locks, or none on directories.
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::BADF) => {
                Err(Error::Unsupported)
            }
            Err(error) => Err(failed(&error.into())),
        }
    }
}

impl Identity {
    fn of(directory: &File) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(directory)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Returns the process that holds the lock. The system does not show processes in other containers.
    fn locked_by(self) -> Option<u32> {
        let mut locks = String::new();
        let table = File::open("/proc/locks").ok()?;
        table.take(LOCK_TABLE_BYTES_MAX).read_to_string(&mut locks).ok()?;
        let (major, minor) = (rustix::fs::major(self.device), rustix::fs::minor(self.device));
        holder(&locks, &format!("{major:02x}:{minor:02x}:{}", self.inode))
    }
}

/// Finds the process that holds a lock on a file in the system's table of locks.
fn holder(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        // Number, kind, mode, access, process, file, range; an arrow after the number for one that waits.
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", process, found, ..] = words[..] else { return None };
        (found == file).then(|| process.parse().ok())?
    })
}

fn is_removed(directory: &File) -> bool {
    rustix::fs::fstat(directory).is_ok_and(|stat| stat.st_nlink == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_in_the_systems_table() {
        let table = "1: FLOCK  ADVISORY  WRITE 22978 fe:00:5423235 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 1 fe:00:77 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 3 fe:00:77 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 4 fe:00:77 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 25691 fe:00:77 0 EOF\n";
        assert_eq!(holder(table, "fe:00:77"), Some(25691));
        assert_eq!(holder(table, "fe:00:7"), None);
        assert_eq!(holder("nonsense\n5: FLOCK\n", "fe:00:77"), None);
    }

    #[test]
    fn one_of_several_owns_and_the_next_one_takes_over() {
        let folder = tempfile::tempdir().unwrap();
        let owners = Arc::new(Owners::default());
        let directory = || File::open(folder.path()).unwrap();
        let ask = |owned: &mut Owned| {
            let tried = owned.question().ask(directory());
            owned.note(tried)
        };
        let (mut first, mut second) = (Owned::new(&owners), Owned::new(&owners));
        assert_eq!(owners.owner(), None);
        assert_eq!(ask(&mut first), Ok(Ownership::This));
        assert_eq!(ask(&mut first), Ok(Ownership::This), "as often as it asks");
        let own = std::process::id();
        let answer = ask(&mut second);
        // A system need not show its locks.
        assert!(
            matches!(answer, Ok(Ownership::Another(process)) if process.is_none_or(|id| id == own)),
            "{answer:?}"
        );
        assert_eq!(owners.owner(), Some(CapacityOwner::ThisProcess));
        drop(first);
        assert!(matches!(owners.owner(), Some(CapacityOwner::Another { .. })), "until it asks again");
        assert_eq!(ask(&mut second), Ok(Ownership::This));
        drop(second);
        assert_eq!(owners.owner(), None);
    }

    #[test]
    fn a_directory_that_was_removed_is_not_owned_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let owners = Arc::new(Owners::default());
        let mut owned = Owned::new(&owners);
        for number in 0..OWNED_DIRECTORIES_MAX + 3 {
            let path = folder.path().join(number.to_string());
            std::fs::create_dir(&path).unwrap();
            let tried = owned.question().ask(File::open(&path).unwrap());
            assert_eq!(owned.note(tried), Ok(Ownership::This));
            std::fs::remove_dir(&path).unwrap();
        }
    }
}
