//! The simulation runs ten thousand histories inside `make test`, so the model must cost next to nothing. This test prints
//! what it costs and fails only where something has become ten times dearer than when it was written.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::time::Instant;
use twinlane_model::server::encode;
use twinlane_model::{ModelServer, Rng, diff, invocations};

#[test]
fn a_thousand_histories_take_little_time() {
    let barrier = |row: &str| row.starts_with("FLUSH") || row == "SWAPDB";
    let rows: Vec<&str> = invocations::rows()
        .iter()
        .copied()
        .filter(|row| !barrier(row))
        .filter(|row| twinlane_model::server::implements(&row.to_lowercase().replace(' ', "|")))
        .collect();
    let mut rng = Rng::new(5);
    let pool: Vec<Vec<u8>> = invocations::prepare("SET", &mut rng).iter().map(|command| encode(command)).collect();
    let mut history: Vec<Vec<u8>> =
        (0..300).flat_map(|_| invocations::generate(rows[rng.index(rows.len())], &mut rng, 1)).map(|command| encode(&command)).collect();
    // The history uses the pool up; chance gets a full set once more at its end.
    history.extend(pool.iter().cloned());
    history.extend([["SPOP", "set:1"], ["SPOP", "set:2"], ["SPOP", "set:ints"], ["SPOP", "set:1"]].map(|command| encode(&command)));
    let start = Instant::now();
    let mut differing = 0;
    for seed in 0..1000 {
        let mut sides = [ModelServer::new(seed, 16), ModelServer::new(seed + 1_000_000, 16)];
        for side in &mut sides {
            let conn = side.open();
            for (at, command) in pool.iter().chain(&history).enumerate() {
                side.feed(conn, command, at as u64 + 1_000_000);
                assert!(side.step(conn, at as u64 + 1_000_000));
                side.take_output(conn);
            }
        }
        differing += usize::from(!diff(&sides[0], &sides[1], [2_000_000; 2], 0).is_empty());
    }
    let each = start.elapsed() / (1000 * 2 * (pool.len() + history.len()) as u32);
    println!("{each:?} a command; {differing} of 1000 pairs with different seeds differ");
    assert!(differing > 900, "two seeds must choose differently");
    assert!(each.as_micros() < 20, "{each:?} a command");
}
