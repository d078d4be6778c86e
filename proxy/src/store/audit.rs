//! The audit log: who asked for what and when, and what came of it, in the state directory. Lines are only appended, each with a checksum, so
//! a crash costs at most the last one; when the file is full it is set aside as `audit.old`, in place of the one before.

use super::lines;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it ended, unix milliseconds.
    pub at: i64,
    /// Who: the address of the one who asked, or `process` for what the process does by itself.
    pub who: String,
    /// What: a path of the admin port, or a word.
    pub what: String,
    /// With which options.
    pub options: String,
    /// What came of it.
    pub outcome: String,
}

impl Entry {
    /// One that ends now.
    #[must_use]
    pub fn now(who: &str, what: &str, options: &str, outcome: &str) -> Entry {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let [who, what, options, outcome] = [who, what, options, outcome].map(str::to_owned);
        Entry { at, who, what, options, outcome }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Audit {
    directory: PathBuf,
    /// The lock orders writers; they wait for a disk, so it is for no thread that others wait for.
    page: Mutex<Page>,
}

/// The file that is written.
#[derive(Debug)]
struct Page {
    file: File,
    bytes: u64,
    /// The last line may have been written in part (a full disk): the next one begins on a line of its own.
    torn: bool,
}

/// Bytes of the file before it is set aside: some four thousand operations, and as many in the one before.
const AUDIT_BYTES_MAX: u64 = 1 << 20;

impl Audit {
    /// Opens or creates the log of a state directory.
    ///
    /// # Errors
    /// The system's.
    pub fn open(directory: &Path) -> io::Result<Audit> {
        let file = lines::open(&directory.join("audit"), false)?;
        let bytes = file.metadata()?.len();
        // A crash may have torn the last line.
        Ok(Audit { directory: directory.to_owned(), page: Mutex::new(Page { file, bytes, torn: bytes > 0 }) })
    }

    /// Writes one operation down, durably: it waits for the disk. A disk that refuses costs the entry and a line in the log, never the
    /// operation.
    pub fn note(&self, entry: &Entry) {
        if let Err(error) = self.append(entry) {
            tracing::error!("the audit log was not written: {error}; check the disk");
        }
    }

    fn append(&self, entry: &Entry) -> io::Result<()> {
        let line = lines::encode(entry)?;
        let Ok(mut page) = self.page.lock() else { return Err(io::Error::other("a writer of the audit log has panicked")) };
        if page.bytes + line.len() as u64 >= AUDIT_BYTES_MAX {
            *page = self.turn()?;
        }
        let line = if page.torn { format!("\n{line}") } else { line };
        page.torn = true;
        page.bytes += line.len() as u64;
        page.file.write_all(line.as_bytes())?;
        page.torn = false;
        page.file.sync_data()
    }

    /// Sets the file aside and begins another one.
    fn turn(&self) -> io::Result<Page> {
        match std::fs::rename(self.directory.join("audit"), self.directory.join("audit.old")) {
            // It was set aside before, and then no other could be begun.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Page { file: lines::open(&self.directory.join("audit"), false)?, bytes: 0, torn: false })
    }

    /// The last operations, the youngest first.
    #[must_use]
    pub fn last(&self, most: usize) -> Vec<Entry> {
        let mut text = String::new();
        for name in ["audit.old", "audit"] {
            text.push_str(&end_of(&self.directory.join(name)).unwrap_or_default());
            text.push('\n');
        }
        text.lines().rev().filter_map(lines::decode).take(most).collect()
    }
}

/// A file that is larger than ours get was not written by us: its end is enough.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(2 * AUDIT_BYTES_MAX)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_outlives_the_process_and_a_torn_line() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::open(directory.path()).unwrap();
        audit.note(&Entry::now("127.0.0.1:5", "/v1/cutover", "{}", "200"));
        drop(audit);
        let path = directory.path().join("audit");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"0123abcd {\"at\":1,\"who\"");
        std::fs::write(&path, bytes).unwrap();
        let audit = Audit::open(directory.path()).unwrap();
        audit.note(&Entry::now("process", "start", "", "epoch 2"));
        let told: Vec<String> = audit.last(9).into_iter().map(|entry| entry.what).collect();
        assert_eq!(told, ["start", "/v1/cutover"]);
        assert_eq!(audit.last(1).len(), 1);
    }

    /// An entry that a full disk had cut short took the next one with it. A pipe that nobody reads takes a part, too.
    #[test]
    fn an_entry_behind_one_that_was_cut_short_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let audit = Audit { directory: directory.path().to_owned(), page: Mutex::new(Page { file, bytes: 0, torn: false }) };
        let cut = Entry { what: "x".repeat(200_000), ..Entry::now("w", "", "", "") };
        assert_eq!(audit.append(&cut).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut bytes = vec![0; 200_000];
        let taken = reader.read(&mut bytes).unwrap();
        bytes.truncate(taken);
        // A pipe cannot be synced, which comes behind the writing.
        let _ = audit.append(&Entry::now("w", "next", "", ""));
        let _ = audit.append(&Entry::now("w", "last", "", ""));
        drop(audit);
        reader.read_to_end(&mut bytes).unwrap();
        let told: Vec<Entry> = String::from_utf8(bytes).unwrap().lines().filter_map(lines::decode).collect();
        assert_eq!(told.iter().map(|entry| entry.what.as_str()).collect::<Vec<_>>(), ["next", "last"]);
    }

    #[test]
    fn it_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::open(directory.path()).unwrap();
        let entry = |at: i64| Entry { at, who: "w".into(), what: "x".repeat(200_000), options: String::new(), outcome: String::new() };
        (0..17).for_each(|at| audit.append(&entry(at)).unwrap());
        let bytes: u64 = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= 2 * AUDIT_BYTES_MAX, "{bytes}");
        let told: Vec<i64> = audit.last(9).into_iter().map(|entry| entry.at).collect();
        assert_eq!(told[..2], [16, 15]);
        assert!(told.len() >= 5, "{told:?}");
    }
}
