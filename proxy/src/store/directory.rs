//! The directory on disk: its lock, and the record file's writes and syncs.

use super::record::Record;
use super::slots::{self, Content};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The state directory, locked for as long as this lives.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Keeps the lock; the kernel frees it however the process ends.
    _lock: File,
    file: File,
    generation: u64,
    /// The slot of the record in force; the next write goes to the other one.
    slot: usize,
    record: Option<Record>,
}

impl Store {
    /// Creates or opens the directory, takes its lock and reads the record.
    ///
    /// # Errors
    /// [`StoreError`]: in use, unreadable, damaged, or of a newer version.
    pub fn open(directory: &Path) -> Result<Store, StoreError> {
        let (mut store, content) = Store::open_raw(directory)?;
        match content {
            Content::Never => {}
            Content::Record { generation, slot, record } => {
                (store.generation, store.slot, store.record) = (generation, slot, Some(*record));
            }
            Content::Unknown { format } => return Err(StoreError::Version { directory: store.directory, format }),
            Content::Damaged => return Err(StoreError::Damaged { directory: store.directory }),
        }
        Ok(store)
    }

    /// As [`Store::open`], but a damaged record counts as none: for `adopt`, where the operator's word replaces it.
    ///
    /// # Errors
    /// As [`Store::open`], except for damage.
    pub fn open_for_adoption(directory: &Path) -> Result<Store, StoreError> {
        match Store::open(directory) {
            Err(StoreError::Damaged { .. }) => Store::open_raw(directory).map(|(store, _)| store),
            other => other,
        }
    }

    /// The record in force; `None` before the first commit.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Where the record lives.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes `record` durable: when this returns `Ok`, a restart obeys it. Blocks for one sync (two at the first commit).
    ///
    /// # Errors
    /// [`StoreError::Unknown`]: nobody knows whether the record is durable. Go on holding and call again with the same
    /// record (the bytes are written anew, so a retry is honest); never go on as if it had not been written (H8).
    pub fn commit(&mut self, record: &Record) -> Result<(), StoreError> {
        let first = self.record.is_none();
        self.write(record)?;
        if first {
            self.write(record)?;
        }
        Ok(())
    }

    /// How long a sync takes now, measured on a page beside the record. The gate asks before a flip is begun.
    ///
    /// # Errors
    /// The system's.
    pub fn probe_sync(&self) -> io::Result<Duration> {
        let begun = Instant::now();
        self.file.write_all_at(&[1; 64], 2 * slots::SLOT as u64)?;
        self.file.sync_data()?;
        Ok(begun.elapsed())
    }

    fn write(&mut self, record: &Record) -> Result<(), StoreError> {
        let unknown = |reason: String| StoreError::Unknown { directory: self.directory.clone(), reason };
        let generation = self.generation + 1;
        let slot = 1 - self.slot;
        let bytes = slots::encode(generation, record).ok_or_else(|| unknown("the record does not fit its slot".into()))?;
        let at = (slot * slots::SLOT) as u64;
        self.file.write_all_at(&bytes, at).and_then(|()| self.file.sync_data()).map_err(|error| unknown(error.to_string()))?;
        (self.generation, self.slot, self.record) = (generation, slot, Some(record.clone()));
        Ok(())
    }

    fn open_raw(directory: &Path) -> Result<(Store, Content), StoreError> {
        let failed = |reason: io::Error| StoreError::Io { directory: directory.to_owned(), reason };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = open_file(&directory.join("lock")).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::InUse { directory: directory.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        }
        let path = directory.join("record");
        if !path.try_exists().map_err(failed)? {
            create(directory, &path).map_err(failed)?;
        }
        let mut file = open_file(&path).map_err(failed)?;
        let mut bytes = Vec::with_capacity(slots::FILE);
        (&mut file).take(slots::FILE as u64).read_to_end(&mut bytes).map_err(failed)?;
        // The first write goes to slot 0.
        let store = Store { directory: directory.to_owned(), _lock: lock, file, generation: 0, slot: 1, record: None };
        Ok((store, slots::read(&bytes)))
    }
}

/// Pre-allocates the file under another name, so that a crash leaves either no record file or a whole blank one.
fn create(directory: &Path, path: &Path) -> io::Result<()> {
    let temporary = directory.join("record.new");
    let file = open_file(&temporary)?;
    file.set_len(0)?;
    file.write_all_at(&[0; slots::FILE], 0)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()?;
    match directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("state_dir {} is in use by another twinlane process; stop it first, or give this one a directory of its own", directory.display())]
    InUse {
        /// Which.
        directory: PathBuf,
    },
    /// The file system refuses.
    #[error("state_dir {} cannot be used: {reason}; check that it exists, is writable by this user and is on a local disk", directory.display())]
    Io {
        /// Which.
        directory: PathBuf,
        /// The system's words.
        reason: io::Error,
    },
    /// Written by a newer version.
    #[error(
        "the record in state_dir {} has format {format}, and this version reads format {}; start the version that wrote it (downgrades are not supported)",
        directory.display(), Record::FORMAT
    )]
    Version {
        /// Which.
        directory: PathBuf,
        /// Found there.
        format: u32,
    },
    /// No slot is whole.
    #[error(
        "the record in state_dir {} is damaged, so it is not known who is primary; restore the directory, or run `twinlane adopt`, which shows what the servers know",
        directory.display()
    )]
    Damaged {
        /// Which.
        directory: PathBuf,
    },
    /// The journal cannot be had.
    #[error(
        "state_dir {}: the journal of {bytes} bytes cannot be used: {reason}; free the space or set journal.bytes lower (0 turns it off: a \
         restart then copies every key anew)",
        directory.display()
    )]
    Journal {
        /// Which.
        directory: PathBuf,
        /// As configured.
        bytes: usize,
        /// The system's words.
        reason: io::Error,
    },
    /// The system gives no randomness.
    #[error("no random name: {0}")]
    Random(String),
    /// A commit's fate is not known.
    #[error("state_dir {}: the record may or may not be durable: {reason}; check the disk", directory.display())]
    Unknown {
        /// Which.
        directory: PathBuf,
        /// The system's words.
        reason: String,
    },
}
