//! Lines of a file: `CRC-32 of the JSON in hex, a blank, JSON`. A line that was torn by a crash, or is of another shape, is passed over.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(super) fn encode(value: &impl Serialize) -> io::Result<String> {
    let text = serde_json::to_string(value).map_err(io::Error::other)?;
    Ok(format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes())))
}

pub(super) fn decode<T: DeserializeOwned>(line: &str) -> Option<T> {
    let (sum, text) = line.split_once(' ')?;
    let whole = u32::from_str_radix(sum, 16) == Ok(crc32fast::hash(text.as_bytes()));
    whole.then(|| serde_json::from_str(text).ok()).flatten()
}

/// Opens a file of ours for writing: at its end, or from its beginning.
pub(super) fn open(path: &Path, anew: bool) -> io::Result<File> {
    OpenOptions::new().append(!anew).write(true).create(true).truncate(anew).mode(0o600).open(path)
}
