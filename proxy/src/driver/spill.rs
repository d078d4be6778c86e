//! The file of keys in doubt that memory has no room for: bytes go out and come in on threads that may wait for a disk, one errand at a time.

use super::Shell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Carries out [`Action::Spill`](twinlane_core::sequencer::Action::Spill).
pub(super) async fn write(shell: Rc<Shell>, at: u64, bytes: Vec<u8>) {
    let path = place(&shell);
    let written = tokio::task::spawn_blocking(move || {
        let file = open(&path)?;
        if at == 0 {
            file.set_len(0)?;
        }
        file.write_all_at(&bytes, at)
    })
    .await;
    let outcome = written.map_err(io::Error::other).and_then(|written| written).map_err(|error| error.to_string());
    shell.with(|core, now| core.handle_spilled(outcome, now));
}

/// Carries out [`Action::Unspill`](twinlane_core::sequencer::Action::Unspill).
pub(super) async fn read(shell: Rc<Shell>, at: u64, len: usize) {
    let path = place(&shell);
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; len];
        open(&path)?.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    })
    .await;
    let bytes = read.map_err(io::Error::other).and_then(|read: io::Result<Vec<u8>>| read).map_err(|error| error.to_string());
    shell.with(|core, now| core.handle_unspilled(bytes.as_deref().map_err(Clone::clone), now));
}

fn place(shell: &Shell) -> PathBuf {
    shell.directory.join("spill")
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
