//! A file's bytes as memory. What is stored is in the kernel's pages at once, so it is there however the process ends; a machine that
//! loses its power keeps what was synced.
//!
//! All of it is read before anybody stores there (64 MiB take some tens of milliseconds at the start), so a store waits for no reading
//! of the disk. What is not needed for a while rests in the kernel's page cache and is no part of this process's memory. What remains is the kernel's write-back (H61): it makes a page read-only, so the first store into a page behind it takes a
//! fault of a microsecond, and on a disk with stable pages waits until the page is written. A tmpfs has neither.

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A file's bytes.
#[derive(Debug)]
pub struct Memory(MmapMut);

impl Memory {
    /// These bytes are not needed for a while: their pages stay in the kernel's cache and leave this process. Whole pages of the range are
    /// meant; the next access brings them back. A refusal changes nothing.
    pub fn rest(&mut self, bytes: Range<usize>) {
        let len = bytes.end.min(self.0.len()).saturating_sub(bytes.start);
        #[allow(unsafe_code, reason = "see the manifest")]
        // SAFETY: the mapping is shared and its file is there, so its pages lose nothing: what was stored is in the file's pages. Nobody
        // holds a reference into it meanwhile, since `self` is borrowed for change.
        let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, len) };
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Opens `path`, creates it where it is missing, and maps it at exactly `bytes`. All of it is allocated on the disk first: a full disk is
/// told here, and not by a signal later. A file of another size is begun anew, all zero. The caller holds a lock that keeps every other
/// process from the file for as long as the memory lives.
///
/// Gives back the memory, and a handle whose `sync_data` makes it durable.
///
/// # Errors
/// The system's.
pub fn map(path: &Path, bytes: usize) -> io::Result<(Memory, File)> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.len() != bytes as u64 {
        file.set_len(0)?;
        allocate(&file, bytes)?;
        file.sync_all()?;
    }
    #[allow(unsafe_code, reason = "see the manifest")]
    // SAFETY: the memory is valid as long as nobody shortens the file, and no data race is possible as long as nobody else maps or writes
    // it: it lives in a directory whose lock the caller holds, is readable by this user alone, and is mapped once in this process.
    let memory = unsafe { MmapOptions::new().populate().map_mut(&file)? };
    Ok((Memory(memory), file))
}

fn allocate(mut file: &File, bytes: usize) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes as u64) {
        Ok(()) => Ok(()),
        // A file system that cannot: zeros do the same.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = vec![0; 1 << 20];
            let mut left = bytes;
            while left > 0 {
                let piece = left.min(zeros.len());
                file.write_all(&zeros[..piece])?;
                left -= piece;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_is_stored_is_in_the_file_without_a_sync() {
        let path = std::env::temp_dir().join(format!("twinlane-mapped-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (mut memory, _file) = map(&path, 8192).unwrap();
        assert!(memory.as_mut().iter().all(|byte| *byte == 0));
        memory.as_mut()[5000] = 7;
        assert_eq!(std::fs::read(&path).unwrap()[5000], 7, "another process sees it");
        drop(memory);
        assert_eq!(map(&path, 8192).unwrap().0.as_mut()[5000], 7, "and the next one finds it");
        assert_eq!(map(&path, 16384).unwrap().0.as_mut()[5000], 0, "another size begins anew");
        std::fs::remove_file(&path).unwrap();
    }

    /// KiB of a mapping that are part of this process's memory.
    fn resident(memory: &mut Memory) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let from = memory.as_mut().as_ptr().addr();
        let place = format!("{from:x}-{:x} ", from + memory.as_mut().len());
        let mapping = maps.lines().skip_while(|line| !line.starts_with(&place));
        let rss = mapping.skip(1).find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// H61: who stores there waits for no reading of the disk; and what rests costs this process nothing and loses nothing.
    #[test]
    fn all_of_it_is_read_at_the_beginning_and_rests_when_it_may() {
        const BYTES: usize = 4 << 20;
        let path = std::env::temp_dir().join(format!("twinlane-populated-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (mut memory, _file) = map(&path, BYTES).unwrap();
        assert_eq!(resident(&mut memory), BYTES >> 10);
        memory.as_mut().fill(7);
        memory.rest(4096..BYTES);
        assert!(resident(&mut memory) <= 64, "{} KiB", resident(&mut memory));
        assert!(memory.as_mut().iter().all(|byte| *byte == 7));
        memory.rest(BYTES - 4096..BYTES + 4096);
        std::fs::remove_file(&path).unwrap();
    }
}
