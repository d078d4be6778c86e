//! Which processes ran on this state directory: their connections, should any still live on a server, are ours to kill (H1). Those of
//! any other process are not: it has a state directory of its own, and may be serving (H10).

use std::io;
use std::path::Path;

/// The names of the last processes, the oldest first.
#[must_use]
pub fn instances(directory: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(directory.join(FILE)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Adds names. The directory's lock is held; a machine that loses its power loses its connections too, so nothing is synced.
///
/// # Errors
/// The system's.
pub fn note_instances(directory: &Path, names: &[String]) -> io::Result<()> {
    let mut known = instances(directory);
    known.retain(|name| !names.contains(name));
    known.extend_from_slice(names);
    let last = &known[known.len().saturating_sub(KEPT)..];
    let next = directory.join(format!("{FILE}.next"));
    std::fs::write(&next, last.join("\n"))?;
    std::fs::rename(next, directory.join(FILE))
}

const FILE: &str = "instances";
/// A process that dies again and again before it has met a server leaves no connection there.
const KEPT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        assert!(instances(directory.path()).is_empty());
        (0..40).for_each(|n| note_instances(directory.path(), &[n.to_string()]).unwrap());
        note_instances(directory.path(), &["39".into(), "a".into()]).unwrap();
        let known = instances(directory.path());
        assert_eq!((known.len(), known.first().map(String::as_str), known.last().map(String::as_str)), (KEPT, Some("9"), Some("a")));
    }
}
