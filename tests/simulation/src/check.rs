//! The two servers compared, key by key.

use twinlane_core::endpoint::Db;
use twinlane_model::ModelServer;
use twinlane_model::diff;

/// Keys that differ, each with its sentence. `now_ms`: by the clock of each. Ends of keys may differ by `ttl_tolerance_ms`.
pub fn differing(primary: &ModelServer, mirror: &ModelServer, now_ms: [u64; 2], ttl_tolerance_ms: u64) -> Vec<(Db, Vec<u8>, String)> {
    let sentences = diff(primary, mirror, now_ms, ttl_tolerance_ms);
    sentences.into_iter().filter_map(|sentence| place(primary, mirror, &sentence).map(|(db, key)| (db, key, sentence))).collect()
}

/// The key that a sentence of `diff` speaks of.
fn place(primary: &ModelServer, mirror: &ModelServer, sentence: &str) -> Option<(Db, Vec<u8>)> {
    let (number, rest) = sentence.strip_prefix("db ")?.split_once(" key ")?;
    let number: usize = number.parse().ok()?;
    let keys = [primary, mirror].into_iter().flat_map(|server| server.dbs[number].keys());
    let mut fitting: Vec<&Vec<u8>> = keys.filter(|key| rest.starts_with(&format!("{}: ", key.escape_ascii()))).collect();
    fitting.sort_by_key(|key| key.len());
    fitting.last().map(|key| (number as Db, (*key).clone()))
}
