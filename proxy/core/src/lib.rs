//! Every decision of Twinlane. This crate has no sockets, no clock, no tasks and no randomness: time and seeds are
//! arguments, bytes come in and go out, so that a seed replays any bug.
pub mod command;
pub mod divergence;
pub mod doubt;
pub mod effect;
pub mod endpoint;
pub mod explained;
pub mod hyperloglog;
pub mod journal;
pub mod keyname;
pub mod limits;
pub mod resp;
pub mod sequencer;
pub mod sha1;
pub mod shadow;
pub mod spill;
pub mod status;
pub mod synced;
pub mod tape;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;

    /// A room that is not on the map is not found.
    #[test]
    fn every_file_stands_in_the_architecture_page() {
        let page = include_str!("../../../docs/ARCHITECTURE.md");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![source.clone(), source.join("sequencer")];
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if path.is_dir() && path.parent().is_some_and(|parent| parent.ends_with("sequencer")) {
                    folders.push(path);
                } else if name.ends_with(".rs") && !["lib.rs", "mod.rs", "tests.rs"].contains(&name.as_str()) {
                    assert!(page.contains(&format!("`{name}`")) || page.contains(&format!("/{name}`")), "{} is missing", path.display());
                }
            }
        }
    }
}
