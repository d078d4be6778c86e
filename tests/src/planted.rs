//! A thousand differences, planted at random on the mirror by a connection that the proxy knows nothing of, and what a verify says of them.
//!
//! Each is of one kind: a wrong value, a missing key, an extra one, a wrong type, a wrong time to live, or one element of a list, set, sorted
//! set or hash of a million. The verify must find exactly these, each by its kind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;

use crate::proxy::Proxy;
use crate::resp::{Client, Command, Value, command};
use crate::servers::Server;

/// What is planted.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Ordinary keys on each side.
    pub keys: u64,
    /// Elements of each of the four large ones.
    pub elements: u64,
    /// Differences, those in the large ones among them.
    pub differences: usize,
    /// Chooses them.
    pub seed: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Differences by kind.
    pub by_kind: BTreeMap<String, usize>,
    /// Of them, one element of a large key each.
    pub elements: usize,
    /// How long the verify took.
    pub took: Duration,
}

/// The four large keys.
const LARGE: [&str; 4] = ["large:list", "large:set", "large:zset", "large:hash"];
/// Elements that are written in one go.
const STEP: u64 = 10_000;

/// Fills a server with keys of every type, every third with a time to live, and the large ones.
pub fn fill(server: &Server, plan: &Plan) -> Result<()> {
    let small = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do local k = 'key:'..i local m = i % 6
        if m == 0 then redis.call('SET', k, 'value-'..i) elseif m == 1 then redis.call('RPUSH', k, i, 'b', 'c')
        elseif m == 2 then redis.call('SADD', k, i, 'b', 'c') elseif m == 3 then redis.call('ZADD', k, i / 3, 'a', 2, 'b')
        elseif m == 4 then redis.call('HSET', k, 'f', i, 'g', 'two') else redis.call('XADD', k, i..'-1', 'f', i) end
        if i % 3 == 0 then redis.call('EXPIRE', k, 100000 + i) end end";
    let large = "local l, s, z, h = {}, {}, {}, {} for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
        l[#l + 1] = 'element-'..i s[#s + 1] = 'member-'..i z[#z + 1] = i z[#z + 1] = 'member-'..i h[#h + 1] = 'field-'..i h[#h + 1] = i
        if #l == 2000 then redis.call('RPUSH', 'large:list', unpack(l)) redis.call('SADD', 'large:set', unpack(s))
        redis.call('ZADD', 'large:zset', unpack(z)) redis.call('HSET', 'large:hash', unpack(h)) l, s, z, h = {}, {}, {}, {} end end";
    let mut client = server.client()?;
    for (script, count) in [(small, plan.keys), (large, plan.elements)] {
        for from in (1..=count).step_by(STEP as usize) {
            let to = (from + STEP - 1).min(count);
            let reply = client.call(&[b"EVAL", script.as_bytes(), b"0", from.to_string().as_bytes(), to.to_string().as_bytes()])?;
            ensure!(!reply.is_error(), "{reply}");
        }
    }
    Ok(())
}

/// Plants the plan's differences on the mirror, has them found, and compares what was found with what was planted.
pub fn plant_and_find(proxy: &Proxy, mirror: &Server, plan: &Plan) -> Result<Found> {
    let mut client = mirror.client()?;
    let before = result_of(proxy, verify(proxy)?)?;
    ensure!(before.0.is_empty(), "nothing is planted, and {:?} are found", before.0);
    let (planted, elements) = plant(&mut client, plan)?;
    let begun = Instant::now();
    let (found, _) = result_of(proxy, verify(proxy)?)?;
    let took = begun.elapsed();
    let missed: Vec<_> = planted.iter().filter(|(key, kind)| found.get(*key) != Some(*kind)).collect();
    let more: Vec<_> = found.iter().filter(|(key, _)| !planted.contains_key(*key)).collect();
    ensure!(
        missed.is_empty() && more.is_empty(),
        "{} planted, {} found; missed {missed:?}, found besides {more:?}",
        planted.len(),
        found.len()
    );
    let mut by_kind: BTreeMap<String, usize> = BTreeMap::new();
    planted.values().for_each(|kind| *by_kind.entry((*kind).clone()).or_default() += 1);
    Ok(Found { by_kind, elements, took })
}

/// A whole verify that proved itself alive; its answer.
pub fn verify(proxy: &Proxy) -> Result<Json> {
    let found = proxy.verify(VERIFY_TIMEOUT)?;
    ensure!(found["alive"] == true, "{found}");
    Ok(found)
}

/// Longest wait for a verify of all that is planted.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(900);

/// The differences that have been told so far, by key, and the verify's answer, which must count as many.
fn result_of(proxy: &Proxy, result: Json) -> Result<(BTreeMap<String, String>, Json)> {
    let body = proxy.get("/v1/divergences?reveal=true")?.body;
    let text = |item: &Json, name: &str| item[name].as_str().map(str::to_owned).context("no text");
    let items = body["items"].as_array().context("no items")?;
    let found = items.iter().map(|item| Ok((text(item, "key")?, text(item, "kind")?))).collect::<Result<BTreeMap<_, _>>>()?;
    let total: u64 = result["differing"].as_object().context("no kinds")?.values().filter_map(Json::as_u64).sum();
    ensure!(total == found.len() as u64 && result["unverifiable"] == 0, "{} are named in {result}", found.len());
    Ok((found, result))
}

fn plant(client: &mut Client, plan: &Plan) -> Result<(BTreeMap<String, String>, usize)> {
    let mut state = plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |count: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % count
    };
    let mut planted: BTreeMap<String, String> = BTreeMap::new();
    let mut commands: Vec<Command> = Vec::new();
    for key in LARGE {
        let n = 1 + below(plan.elements);
        commands.extend(
            match key {
                "large:list" => vec![format!("LSET {key} {} other", n - 1)],
                // As many members, one of them another.
                "large:set" => vec![format!("SREM {key} member-{n}"), format!("SADD {key} other-{n}")],
                "large:zset" => vec![format!("ZADD {key} {n}.5 member-{n}")],
                _ => vec![format!("HSET {key} field-{n} other")],
            }
            .iter()
            .map(|line| command(line)),
        );
        planted.insert(key.to_owned(), "value".to_owned());
    }
    let elements = planted.len();
    while planted.len() < plan.differences {
        let n = 1 + below(plan.keys);
        let key = format!("key:{n}");
        if planted.contains_key(&key) {
            continue;
        }
        let (key, kind, lines) = match below(5) {
            0 => (key.clone(), "missing", vec![format!("DEL {key}")]),
            1 => (format!("extra:{n}"), "extra", vec![format!("SET extra:{n} x")]),
            2 => {
                let other = if n % 6 == 0 { format!("RPUSH {key} x") } else { format!("SET {key} x") };
                (key.clone(), "type", vec![format!("DEL {key}"), other])
            }
            3 if n % 3 == 0 && below(2) == 0 => (key.clone(), "ttl", vec![format!("PERSIST {key}")]),
            3 => (key.clone(), "ttl", vec![format!("EXPIRE {key} {}", 10_000 + below(50_000))]),
            _ => {
                let line = match n % 6 {
                    0 => format!("APPEND {key} x"),
                    1 => format!("LSET {key} 1 x"),
                    2 => format!("SADD {key} x"),
                    3 => format!("ZADD {key} 2.000000000000001 b"),
                    4 => format!("HSET {key} g three"),
                    _ => format!("XADD {key} * f x"),
                };
                (key.clone(), "value", vec![line])
            }
        };
        commands.extend(lines.iter().map(|line| command(line)));
        planted.insert(key, kind.to_owned());
    }
    match client.pipeline(&commands)?.iter().find(|reply| Value::is_error(reply)) {
        Some(error) => bail!("{error}"),
        None => Ok((planted, elements)),
    }
}
