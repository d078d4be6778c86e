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

/// See the module.
#[derive(Debug)]
pub struct Audit {
    directory: PathBuf,
    /// The file, and its bytes. The lock orders writers; they wait for a disk, so it is not for the data thread.
    file: Mutex<(File, u64)>,
}

/// Bytes of the file before it is set aside: some four thousand operations, and as many in the one before.
const AUDIT_BYTES_MAX: u64 = 1 << 20;

impl Audit {
    /// Opens or creates the log of a state directory.
    ///
    /// # Errors
    /// The system's.
    pub fn open(directory: &Path) -> io::Result<Audit> {
        let mut file = lines::open(&directory.join("audit"), false)?;
        let bytes = file.metadata()?.len();
        if bytes > 0 {
            // Behind a line that a crash has torn.
            file.write_all(b"\n")?;
        }
        Ok(Audit { directory: directory.to_owned(), file: Mutex::new((file, bytes + 1)) })
    }

    /// Writes one operation down, durably. A disk that refuses costs the entry and a line in the log, never the operation.
    pub fn note(&self, who: &str, what: &str, options: &str, outcome: &str) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let [who, what, options, outcome] = [who, what, options, outcome].map(str::to_owned);
        if let Err(error) = self.append(&Entry { at, who, what, options, outcome }) {
            tracing::error!("the audit log was not written: {error}; check the disk");
        }
    }

    fn append(&self, entry: &Entry) -> io::Result<()> {
        let line = lines::encode(entry)?;
        let Ok(mut guard) = self.file.lock() else { return Err(io::Error::other("a writer of the audit log has panicked")) };
        let (file, bytes) = &mut *guard;
        if *bytes + line.len() as u64 > AUDIT_BYTES_MAX {
            std::fs::rename(self.directory.join("audit"), self.directory.join("audit.old"))?;
            (*file, *bytes) = (lines::open(&self.directory.join("audit"), false)?, 0);
        }
        file.write_all(line.as_bytes())?;
        *bytes += line.len() as u64;
        file.sync_data()
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
        audit.note("127.0.0.1:5", "/v1/cutover", "{}", "200");
        drop(audit);
        let path = directory.path().join("audit");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"0123abcd {\"at\":1,\"who\"");
        std::fs::write(&path, bytes).unwrap();
        let audit = Audit::open(directory.path()).unwrap();
        audit.note("process", "start", "", "epoch 2");
        let told: Vec<String> = audit.last(9).into_iter().map(|entry| entry.what).collect();
        assert_eq!(told, ["start", "/v1/cutover"]);
        assert_eq!(audit.last(1).len(), 1);
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
