//! A warm cache behind a fresh proxy: many keys of every type, a few of them huge, and clients that write them from the first second of mirroring.
//!
//! What must hold: the backfill ends, verify finds nothing, and the comparer, which knows nothing of either, finds both servers equal; the same
//! with `kill -9` of the proxy in the middle. The clients write keys that are copied already, keys that are not, and the huge ones, whose
//! image is under way for a second; they delete, rename, rewrite and let expire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value as Json, json};

use crate::compare::{self, compare};
use crate::pair::{PATIENCE, until};
use crate::proxy::{Options, Proxy};
use crate::reader::copy_all;
use crate::resp::{Client, command};
use crate::servers::{Server, Version};

/// What `old` holds.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Keys.
    pub keys: u32,
    /// Elements of the largest collections, one of each type.
    pub elements: u32,
    /// Bytes of the largest strings, of which there are two.
    pub bytes: usize,
}

/// Longest time without any progress.
const STALL: Duration = Duration::from_secs(300);
/// Clients, and what each sends a second.
const CLIENTS: u64 = 4;
const COMMANDS_A_SECOND: u64 = 1_000;
/// Commands per pipeline.
const PIPELINE: u64 = 20;

const FILL: &str = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do local k = 'key:'..i local m = i % 10
    if m < 3 then redis.call('SET', k, string.rep('v', 20 + i % 180)) elseif m == 3 then redis.call('SET', k, i, 'EX', 3600 + i % 80000)
    elseif m == 4 then redis.call('HSET', k, 'name', 'n'..i, 'mail', i..'@example.org', 'n', i)
    elseif m == 5 then redis.call('RPUSH', k, i, i + 1, 'three') elseif m == 6 then redis.call('SADD', k, i, 'a', 'b')
    elseif m == 7 then redis.call('ZADD', k, i, 'a', i / 3, 'b') elseif m == 8 then redis.call('XADD', k, '1-1', 'a', i)
    else redis.call('PFADD', k, i, i + 1) redis.call('EXPIRE', k, 4000 + i % 80000) end end";

const GROW: &str = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    redis.call('HSET', 'huge:hash', 'field:'..i, i) redis.call('ZADD', 'huge:zset', i / 7, 'member:'..i)
    redis.call('RPUSH', 'huge:list', 'item:'..i) redis.call('SADD', 'huge:set', 'member:'..i)
    redis.call('XADD', 'huge:stream', '1-'..i, 'n', i) end";

fn fill(server: &Server, cache: &Cache) -> Result<()> {
    let mut client = server.client()?;
    client.set_timeout(PATIENCE)?;
    for (script, count) in [(FILL, cache.keys), (GROW, cache.elements)] {
        for from in (1..=count).step_by(10_000) {
            let to = count.min(from + 9_999);
            let reply = client.call(&[b"EVAL", script.as_bytes(), b"0", from.to_string().as_bytes(), to.to_string().as_bytes()])?;
            ensure!(!reply.is_error(), "{reply}");
        }
    }
    let mut seed = 1u64;
    for name in [b"huge:string:1", b"huge:string:2"].iter().filter(|_| cache.bytes > 0) {
        // Without order, so that DUMP does not make it small.
        let noise: Vec<u8> = std::iter::repeat_with(|| (next(&mut seed) >> 32) as u8).take(cache.bytes).collect();
        let reply = client.call(&[b"SET", name.as_slice(), &noise])?;
        ensure!(!reply.is_error(), "{reply}");
    }
    Ok(())
}

fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed
}

/// Clients on the cache, until they are told to stop.
struct Traffic {
    ended: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Result<()>>>,
}

impl Traffic {
    fn start(address: &str, keys: u32, elements: u32) -> Traffic {
        let (ended, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |number: u64| {
            let (address, ended, answered) = (address.to_owned(), ended.clone(), answered.clone());
            std::thread::spawn(move || write(&address, number, u64::from(keys.max(1)), elements, &ended, &answered))
        };
        let threads = (0..CLIENTS).map(client).collect();
        Traffic { ended, answered, threads }
    }

    /// How many commands were answered.
    fn stop(self) -> Result<u64> {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(self.answered.load(Ordering::Relaxed))
    }
}

/// One client at a constant rate; it connects again when the proxy has died.
fn write(address: &str, number: u64, keys: u64, elements: u32, ended: &AtomicBool, answered: &AtomicU64) -> Result<()> {
    let mut seed = number + 1;
    let mut client: Option<Client> = None;
    let mut lost = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let Some(open) = &mut client else {
            ensure!(lost.elapsed() < PATIENCE, "no connection to the proxy for {PATIENCE:?}");
            client = Client::connect_within(address, PATIENCE).ok();
            if client.is_none() {
                std::thread::sleep(Duration::from_millis(20));
            }
            continue;
        };
        let commands: Vec<_> = (0..PIPELINE).map(|_| command(&write_line(&mut seed, keys, elements))).collect();
        match open.pipeline(&commands) {
            Ok(replies) => _ = answered.fetch_add(replies.len() as u64, Ordering::Relaxed),
            Err(_) => (client, lost) = (None, Instant::now()),
        }
        std::thread::sleep(Duration::from_millis(1000 * PIPELINE / COMMANDS_A_SECOND).saturating_sub(begun.elapsed()));
    }
    Ok(())
}

/// One write. Keys of one number have one type until a client renames or rewrites them; the errors that follow are part of it.
fn write_line(seed: &mut u64, keys: u64, elements: u32) -> String {
    let (chance, at, other) = (next(seed) >> 33, 1 + (next(seed) >> 20) % keys, 1 + (next(seed) >> 20) % keys);
    let group = |kind: u64| at / 10 * 10 + kind;
    let element = chance % u64::from(elements.max(1) * 2);
    match chance % 24 {
        0 => format!("DEL key:{at}"),
        1 => format!("SET key:{at} anew EX {}", 4_000 + chance % 1_000),
        2 => format!("APPEND key:{} more", group(0)),
        3 => format!("SETRANGE key:{} 3 changed", group(1)),
        4 => format!("HSET key:{} n {chance} more {chance}", group(4)),
        5 => format!("RPUSH key:{} {chance}", group(5)),
        6 => format!("LPOP key:{}", group(5)),
        7 => format!("SPOP key:{}", group(6)),
        8 => format!("ZINCRBY key:{} 1.5 a", group(7)),
        9 => format!("XADD key:{} * more {chance}", group(8)),
        10 => format!("PFADD key:{} {chance}", group(9)),
        11 => format!("RENAME key:{at} key:{other}"),
        12 => format!("COPY key:{at} key:{other} REPLACE"),
        13 => format!("EXPIRE key:{at} {}", 4_000 + chance % 1_000),
        14 => format!("PERSIST key:{at}"),
        15 => format!("SET brief:{} x PX {}", chance % 500, 1 + chance % 900),
        16 => format!("SETRANGE huge:string:{} {} changed", 1 + chance % 2, chance % 1_000),
        17 => format!("HSET huge:hash field:{element} {chance}"),
        18 => format!("ZADD huge:zset {chance} member:{element}"),
        19 => format!("LSET huge:list {} {chance}", element / 2),
        20 => format!("SREM huge:set member:{element}"),
        21 => format!("SADD huge:set member:{element}"),
        22 => "XADD huge:stream * n 1".to_owned(),
        _ => format!("SUNIONSTORE key:{} key:{} key:{}", group(6), other / 10 * 10 + 6, group(6)),
    }
}

/// See the module. Tells what it took.
///
/// # Errors
/// When the backfill does not end, verify finds something, or the servers differ.
pub fn copy_under_traffic(cache: &Cache, pair: [Version; 2], kill: bool) -> Result<()> {
    let (old, new) = (Server::plain(pair[0])?, Server::plain(pair[1])?);
    let begun = Instant::now();
    fill(&old, cache)?;
    let keys = old.client()?.cmd("DBSIZE")?.int().context("DBSIZE")?;
    println!("warm: {keys} keys were loaded in {:.1} s", begun.elapsed().as_secs_f64());
    let mut proxy = Proxy::start(&old.address(), &new.address(), Options::default())?;
    let begun = Instant::now();
    let traffic = Traffic::start(&proxy.address(), cache.keys, cache.elements);
    let mut walked = 0.0;
    if kill {
        let middle = |now: &Json| now["keys_done"].as_u64() > Some(keys as u64 * 2 / 5);
        let now = wait(&proxy, "the middle of the backfill", middle)?;
        ensure!(now["state"] == "running", "it was over before it was killed: {now}");
        walked = metric(&proxy, "twinlane_backfill_keys_total")?;
        proxy.kill9();
        proxy.restart()?;
    }
    let end = wait(&proxy, "the end of the backfill", |now| now["state"] == "done")?;
    let took = begun.elapsed().as_secs_f64();
    let again = metric(&proxy, "twinlane_backfill_keys_total")?;
    let answered = traffic.stop()?;
    let sent = end["bytes_done"].as_u64().unwrap_or(0) >> 20;
    println!(
        "warm: the backfill took {took:.1} s ({:.0} keys/s, {sent} MiB), beside {:.0} commands/s of clients",
        keys as f64 / took,
        answered as f64 / took
    );
    if kill {
        println!("warm: {walked:.0} keys had been walked when the proxy was killed, {again:.0} were walked behind it");
        ensure!(again < keys as f64 - walked / 2.0, "the walk began anew behind the kill");
    }
    for server in [&old, &new] {
        until("the keys with a short time to live to die", PATIENCE, || Ok(server.client()?.cmd("KEYS brief:*")?.items().is_empty()))?;
    }
    settle(&proxy)?;
    let begun = Instant::now();
    let result = proxy.verify(STALL)?;
    if result["clean"] != true {
        let found = proxy.get("/v1/divergences?reveal=true")?.body;
        bail!("verify found {result}: {found}\n{}", proxy.log_tail());
    }
    println!("warm: verify found no difference in {} keys, {:.1} s", result["keys_compared"], begun.elapsed().as_secs_f64());
    let report = compare(&old.address(), &new.address(), &compare::Options::default())?.into_result()?;
    println!("warm: {} keys compared, equal{}", report.keys_compared, if kill { ", behind a kill" } else { "" });
    Ok(())
}

/// The backfill and the plain copier in turns, over the same keys at rest.
///
/// # Errors
/// When something is not copied.
pub fn backfill_speed(keys: u32, rounds: u32) -> Result<()> {
    let servers = [Server::plain(Version::Redis70)?, Server::plain(Version::Redis70)?, Server::plain(Version::Redis70)?];
    let [old, new, target] = &servers;
    fill(old, &Cache { keys, elements: 0, bytes: 0 })?;
    let proxy = Proxy::start(&old.address(), &new.address(), Options::default())?;
    wait(&proxy, "the first backfill", |now| now["state"] == "done")?;
    let (mut plain, mut filled) = (Duration::ZERO, Duration::ZERO);
    for round in 1..=rounds {
        target.client()?.cmd("FLUSHALL")?;
        let begun = Instant::now();
        let copied = copy_all(&old.address(), &target.address())?;
        let copier = begun.elapsed();
        ensure!(copied as u32 == keys + 1, "{copied} keys");

        proxy.post("/v1/mirror/stop", &json!({}))?;
        new.client()?.cmd("FLUSHALL")?;
        let begun = Instant::now();
        let answer = proxy.post("/v1/mirror/start", &json!({}))?;
        ensure!(answer.status == 200, "{}", answer.body);
        let end = wait(&proxy, "the backfill", |now| now["state"] == "done")?;
        let took = begun.elapsed();
        let there = new.client()?.cmd("DBSIZE")?.int();
        ensure!(there == Some(i64::from(keys) + 1) && end["keys_done"] == keys, "{there:?} keys, {end}");
        let rate = |took: Duration| f64::from(keys) / took.as_secs_f64();
        println!("round {round}: plain copier {:.0} keys/s, backfill {:.0} keys/s", rate(copier), rate(took));
        (plain, filled) = (plain + copier, filled + took);
    }
    println!("the backfill reaches {:.0} % of a plain pipelined DUMP and RESTORE", 100.0 * plain.as_secs_f64() / filled.as_secs_f64());
    Ok(())
}

/// Waits for a word of the backfill, as long as it moves.
fn wait(proxy: &Proxy, what: &str, mut holds: impl FnMut(&Json) -> bool) -> Result<Json> {
    let (mut last, mut moved) = (Json::Null, Instant::now());
    loop {
        let now = proxy.get("/v1/backfill")?.body;
        if holds(&now) {
            return Ok(now);
        }
        if now["keys_done"] != last["keys_done"] || now["bytes_done"] != last["bytes_done"] {
            moved = Instant::now();
        }
        if moved.elapsed() > STALL || now["state"] == "failed" {
            bail!("waiting for {what}: {now}\n{}", proxy.log_tail());
        }
        last = now;
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn metric(proxy: &Proxy, name: &str) -> Result<f64> {
    let Json::String(text) = proxy.get("/metrics")?.body else { bail!("no metrics") };
    let sample = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.rsplit(' ').next()?.parse().ok());
    sample.with_context(|| format!("no {name}"))
}

fn settle(proxy: &Proxy) -> Result<()> {
    let mut status = Json::Null;
    until("the mirror to settle", PATIENCE, || {
        status = proxy.status()?;
        Ok(crate::pair::in_step(&status))
    })
    .with_context(|| status.to_string())
}
