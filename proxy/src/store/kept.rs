//! What the last verify found, kept for the next process: one line, a checksum and JSON, written under another name and renamed, so a crash
//! leaves the old one or the new one. It is for people; nothing is decided by it, so what cannot be read is passed over.

use crate::store::lines;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::Path;
use twinlane_core::divergence::VerifyResult;

/// The shape that this version writes and reads.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    /// Another installation's result says nothing of this pair.
    installation: String,
    result: VerifyResult,
}

/// Keeps a result. Blocks for a sync.
///
/// # Errors
/// The system's.
pub fn keep_verify(directory: &Path, installation: &str, result: &VerifyResult) -> io::Result<()> {
    let line = lines::encode(&Kept { format: FORMAT, installation: installation.to_owned(), result: result.clone() })?;
    let temporary = directory.join("verify.new");
    let mut file = lines::open(&temporary, true)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join("verify"))
}

/// The result that was kept; None: there is none of this installation that can be read.
#[must_use]
pub fn kept_verify(directory: &Path, installation: &str) -> Option<VerifyResult> {
    let text = std::fs::read_to_string(directory.join("verify")).ok()?;
    let kept: Option<Kept> = text.lines().next().and_then(lines::decode);
    let Some(kept) = kept.filter(|kept| kept.format == FORMAT) else {
        tracing::warn!("what the last verify found cannot be read (damaged, or written by another version): it is passed over");
        return None;
    };
    (kept.installation == installation).then_some(kept.result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlane_core::divergence::Until;

    #[test]
    fn a_result_outlives_the_process_and_no_other_installation_believes_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(kept_verify(path, "one"), None);
        for until in [None, Some(Until::At(77)), Some(Until::Never)] {
            let result =
                VerifyResult { keys_compared: 9, clean: true, primary_only_until: until, as_of: Some(5), ..VerifyResult::default() };
            keep_verify(path, "one", &result).unwrap();
            assert_eq!(kept_verify(path, "one"), Some(result));
        }
        assert_eq!(kept_verify(path, "two"), None);
        let mut bytes = std::fs::read(path.join("verify")).unwrap();
        bytes[40] ^= 1;
        std::fs::write(path.join("verify"), bytes).unwrap();
        assert_eq!(kept_verify(path, "one"), None);
    }
}
