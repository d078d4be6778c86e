//! The journal's file in the state directory, and how durable it is.

use super::StoreError;
use crate::config;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use twinlane_core::journal::{HEADER_BYTES, Journal, Left, Memory, Opening};

/// A journal that was opened.
#[derive(Debug)]
pub struct Opened {
    /// For the sequencer.
    pub journal: Journal,
    /// What the earlier process left.
    pub left: Left,
    /// `sync_data` of it makes what was stored durable.
    pub file: File,
}

/// Opens the journal beside the record; None: it is turned off. `distrust` says why what is found there must not be believed.
///
/// # Errors
/// [`StoreError::Journal`]: no room on the disk, or the system's refusal.
pub fn open_journal(
    directory: &Path,
    installation: &str,
    settings: &config::Journal,
    distrust: Option<&str>,
) -> Result<Option<Opened>, StoreError> {
    if settings.bytes == 0 {
        return Ok(None);
    }
    let failed = |reason: io::Error| StoreError::Journal { directory: directory.to_owned(), bytes: settings.bytes, reason };
    let (path, bytes) = (directory.join("journal"), HEADER_BYTES + settings.bytes);
    let resized = std::fs::metadata(&path).is_ok_and(|found| found.len() != bytes as u64);
    let (memory, file) = twinlane_mapped::map(&path, bytes).map_err(failed)?;
    let named = name_of(&file).map_err(failed)?;
    let opening = Opening { installation, file: named, boot: &boot()?, synced: settings.sync != config::Sync::None };
    let opened = Journal::open(Box::new(Ring(memory)), &opening);
    let (journal, left) = opened.ok_or_else(|| failed(io::Error::other("its size is no power of two of at least 65536")))?;
    let left = match (distrust, left) {
        (Some(why), Left::Known { .. }) => Left::Unknown(why.to_owned()),
        (_, Left::Nothing) if resized => Left::Unknown("it was of another size: of another version, or journal.bytes has changed".into()),
        (_, left) => left,
    };
    // What is not to be believed any more must not come back with the next start of the machine.
    file.sync_data().map_err(failed)?;
    Ok(Some(Opened { journal, left, file }))
}

struct Ring(twinlane_mapped::Memory);

impl AsMut<[u8]> for Ring {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_mut()
    }
}

impl Memory for Ring {
    fn rest(&mut self, bytes: Range<usize>) {
        self.0.rest(bytes);
    }
}

/// Device, inode, and when the file was made, where the file system tells.
fn name_of(file: &File) -> io::Result<[u64; 3]> {
    use std::os::unix::fs::MetadataExt;
    let facts = file.metadata()?;
    let made = facts.created().ok().and_then(|made| made.duration_since(std::time::UNIX_EPOCH).ok());
    Ok([facts.dev(), facts.ino(), made.map_or(0, |made| made.as_nanos() as u64)])
}

/// Names this start of the machine. Where the system does not tell, every start of ours is another one.
fn boot() -> Result<String, StoreError> {
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => super::new_installation().map_err(|error| StoreError::Random(error.to_string())),
    }
}
