//! The Rust crate `redis` (redis-rs): multiplexed connections, the connection manager, pub/sub, RESP2 and RESP3.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, Direction, Script, cmd, pipe};
use twinlane_clients::program::{Count, Phase, Place, Workers, add_one, run_library, until};

fn client(db: u8) -> Result<Client> {
    let place = Place::from_env()?;
    Ok(Client::open(format!("{}?protocol=resp{}", place.url(db), place.protocol))?)
}

/// How long a connection may take; the library's own second is short for a busy machine.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

/// A connection that may wait for a blocking command.
async fn connect(db: u8) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(PATIENCE);
    Ok(client(db)?.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn handshake() -> Result<()> {
    let mut one = connect(5).await?;
    let () = cmd("CLIENT").arg("SETNAME").arg("redis-rs").query_async(&mut one).await?;
    let () = one.set("handshake", "five").await?;
    let (count, done) = (Count::default(), one.clone());
    let mut workers = Workers::default();
    let (mut reader, counted) = (done, count.clone());
    workers.repeat(async move || {
        let value: String = reader.get("handshake").await?;
        ensure!(value == "five", "the key is {value}");
        add_one(&counted);
        Ok(())
    });
    workers.across_flips(&count, 10).await?;
    let name: String = cmd("CLIENT").arg("GETNAME").query_async(&mut one).await?;
    ensure!(name == "redis-rs", "the name is {name}");
    let elsewhere: Option<String> = connect(0).await?.get("handshake").await?;
    ensure!(elsewhere.is_none(), "the key of database 5 is in database 0");
    let place = Place { password: "no".into(), ..Place::from_env()? };
    ensure!(Client::open(place.url(0))?.get_multiplexed_async_connection().await.is_err(), "served with a wrong password");
    Ok(())
}

async fn pipeline() -> Result<()> {
    let (mut one, count) = (connect(0).await?, Count::default());
    let mut workers = Workers::default();
    let counted = count.clone();
    workers.repeat(async move || {
        let mut batch = pipe();
        for _ in 0..50 {
            batch.incr("rrpipe:count", 1);
        }
        let first = counted.get() as i64 * 50 + 1;
        let replies: Vec<i64> = batch.query_async(&mut one).await?;
        ensure!(replies == (first..first + 50).collect::<Vec<_>>(), "{replies:?} does not follow {first}");
        add_one(&counted);
        Ok(())
    });
    workers.across_flips(&count, 10).await
}

async fn transaction() -> Result<()> {
    let (mut one, count) = (connect(0).await?, Count::default());
    let mut workers = Workers::default();
    let counted = count.clone();
    workers.repeat(async move || {
        let (a, b): (i64, i64) = pipe().atomic().decr("rrtx:a", 3).incr("rrtx:b", 3).query_async(&mut one).await?;
        ensure!(a + b == 0, "the sum of {a} and {b}");
        add_one(&counted);
        Ok(())
    });
    workers.across_flips(&count, 20).await?;
    let moved: u64 = connect(0).await?.get("rrtx:b").await?;
    ensure!(moved == 3 * count.get(), "moved {moved} in {} transactions", count.get());
    Ok(())
}

async fn watch() -> Result<()> {
    let (count, mut workers) = (Count::default(), Workers::default());
    for _ in 0..4 {
        let (mut one, counted) = (connect(0).await?, count.clone());
        workers.repeat(async move || {
            let () = cmd("WATCH").arg("rrwatch:sum").query_async(&mut one).await?;
            let value: Option<u64> = one.get("rrwatch:sum").await?;
            let done: Option<()> = pipe().atomic().set("rrwatch:sum", value.unwrap_or(0) + 1).ignore().query_async(&mut one).await?;
            if done.is_some() {
                add_one(&counted);
            }
            Ok(())
        });
    }
    workers.across_flips(&count, 40).await?;
    let sum: u64 = connect(0).await?.get("rrwatch:sum").await?;
    ensure!(sum == count.get(), "the sum is {sum}, {} increments were told", count.get());
    Ok(())
}

async fn script() -> Result<()> {
    let (mut one, count) = (connect(0).await?, Count::default());
    let counting = Script::new("redis.call('RPUSH', KEYS[2], ARGV[1]) return redis.call('INCRBY', KEYS[1], ARGV[1])");
    let mut workers = Workers::default();
    let counted = count.clone();
    workers.repeat(async move || {
        if counted.get() % 10 == 9 {
            let () = cmd("SCRIPT").arg("FLUSH").query_async(&mut one).await?;
        }
        add_one(&counted);
        let got: u64 = counting.key("rrscript:count").key("rrscript:list").arg(2).invoke_async(&mut one).await?;
        ensure!(got == 2 * counted.get(), "the script answers {got} at {}", counted.get());
        Ok(())
    });
    workers.across_flips(&count, 20).await?;
    let length: u64 = connect(0).await?.llen("rrscript:list").await?;
    ensure!(length == count.get(), "the list has {length} elements");
    Ok(())
}

async fn pubsub() -> Result<()> {
    let (mut one, sent, count) = (connect(0).await?, Count::default(), Count::default());
    let mut subscription = client(0)?.get_async_pubsub().await?;
    subscription.subscribe("rrnews").await?;
    subscription.psubscribe("rrne*").await?;
    let mut messages = subscription.into_on_message();
    let mut workers = Workers::default();
    let published = sent.clone();
    workers.repeat(async move || {
        let receivers: u64 = one.publish("rrnews", published.get()).await?;
        ensure!(receivers == 2, "{receivers} receivers");
        add_one(&published);
        Ok(())
    });
    let got = Rc::new(RefCell::new([Vec::new(), Vec::new()]));
    let (received, counted) = (got.clone(), count.clone());
    let listener: tokio::task::JoinHandle<Result<()>> = tokio::task::spawn_local(async move {
        while let Some(message) = messages.next().await {
            let number: u64 = message.get_payload()?;
            received.borrow_mut()[usize::from(message.from_pattern())].push(number);
            counted.set(received.borrow().iter().map(Vec::len).min().unwrap_or(0) as u64);
        }
        Ok(())
    });
    workers.across_flips(&count, 100).await?;
    Workers::default().until("the last message", || count.get() >= sent.get() || listener.is_finished()).await?;
    let wanted: Vec<u64> = (0..sent.get()).collect();
    for got in got.borrow().iter() {
        ensure!(
            *got == wanted,
            "{} messages sent, {} received: {:?}",
            wanted.len(),
            got.len(),
            got.iter().zip(&wanted).find(|(a, b)| a != b)
        );
    }
    Ok(())
}

async fn blocking() -> Result<()> {
    let (mut one, mut parked, sent, count) = (connect(0).await?, connect(0).await?, Count::default(), Count::default());
    let mut workers = Workers::default();
    let (pushed, taken) = (sent.clone(), count.clone());
    workers.repeat(async move || {
        // One more only when the one before has been taken: the consumer parks every time.
        if taken.get() == pushed.get() {
            let () = one.rpush("rrblock:list", pushed.get()).await?;
            add_one(&pushed);
        }
        Ok(())
    });
    let taken = count.clone();
    workers.repeat(async move || {
        let moved: Option<u64> = parked.blmove("rrblock:list", "rrblock:to", Direction::Left, Direction::Right, 1.0).await?;
        let Some(moved) = moved else { return Ok(()) };
        let (_, popped): (String, u64) = parked.blpop(&["rrblock:none", "rrblock:to"], 1.0).await?;
        ensure!((moved, popped) == (taken.get(), taken.get()), "moved {moved} and popped {popped}, not {}", taken.get());
        add_one(&taken);
        Ok(())
    });
    workers.across_flips(&count, 30).await?;
    let left: u64 = connect(0).await?.llen("rrblock:list").await?;
    ensure!(count.get() + left == sent.get(), "{} of {} taken, {left} left", count.get(), sent.get());
    Ok(())
}

async fn streams() -> Result<()> {
    let (mut one, sent, count) = (connect(0).await?, Count::default(), Count::default());
    let () = one.xgroup_create_mkstream("rrstream", "group", "$").await?;
    let mut workers = Workers::default();
    let (added, read) = (sent.clone(), count.clone());
    workers.repeat(async move || {
        if added.get() < read.get() + 4 {
            let _: String = one.xadd("rrstream", "*", &[("n", added.get())]).await?;
            add_one(&added);
        }
        Ok(())
    });
    let got = Rc::new(RefCell::new(Vec::new()));
    for name in ["a", "b"] {
        let (mut mine, read, got) = (connect(0).await?, count.clone(), got.clone());
        workers.repeat(async move || {
            let options = StreamReadOptions::default().group("group", name).count(5).block(300);
            let reply: Option<StreamReadReply> = mine.xread_options(&["rrstream"], &[">"], &options).await?;
            for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids) {
                got.borrow_mut().push(entry.get::<u64>("n").unwrap_or(u64::MAX));
                let acknowledged: u64 = mine.xack("rrstream", "group", &[&entry.id]).await?;
                ensure!(acknowledged == 1, "XACK answers {acknowledged}");
                add_one(&read);
            }
            Ok(())
        });
    }
    workers.across_flips(&count, 40).await?;
    let left: StreamReadReply = connect(0)
        .await?
        .xread_options(&["rrstream"], &[">"], &StreamReadOptions::default().group("group", "a"))
        .await
        .unwrap_or(StreamReadReply { keys: Vec::new() });
    got.borrow_mut().extend(left.keys.iter().flat_map(|stream| &stream.ids).filter_map(|entry| entry.get::<u64>("n")));
    got.borrow_mut().sort_unstable();
    ensure!(*got.borrow() == (0..sent.get()).collect::<Vec<_>>(), "{} entries delivered of {}", got.borrow().len(), sent.get());
    Ok(())
}

async fn scan() -> Result<()> {
    let mut one = connect(0).await?;
    let keys: BTreeSet<String> = (0..600).map(|n| format!("rrscan:{n}")).collect();
    let () = one.mset(&keys.iter().map(|key| (key, "x")).collect::<Vec<_>>()).await?;
    let (mut cursor, mut pages, mut found) = (0_u64, 0, BTreeSet::new());
    loop {
        let (next, page): (u64, Vec<String>) =
            cmd("SCAN").arg(cursor).arg("MATCH").arg("rrscan:*").arg("COUNT").arg(20).query_async(&mut one).await?;
        found.extend(page);
        pages += 1;
        if pages == 5 || pages == 15 {
            twinlane_clients::program::flip().await?;
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    ensure!(pages > 15, "too few pages for two flips");
    ensure!(keys.is_subset(&found), "SCAN misses {} keys", keys.difference(&found).count());
    Ok(())
}

async fn reconnect() -> Result<()> {
    let config =
        ConnectionManagerConfig::new().set_min_delay(Duration::from_millis(5)).set_response_timeout(None).set_connection_timeout(PATIENCE);
    let (mut one, mut killer, count) = (ConnectionManager::new_with_config(client(7)?, config).await?, connect(7).await?, Count::default());
    let mut workers = Workers::default();
    let counted = count.clone();
    workers.repeat(async move || {
        let before: u64 = cmd("CLIENT").arg("ID").query_async(&mut one).await?;
        let killed: u64 = cmd("CLIENT").arg("KILL").arg("ID").arg(before).query_async(&mut killer).await?;
        ensure!(killed == 1, "CLIENT KILL answers {killed}");
        // A command that finds the connection dead fails, and the manager connects anew: repeating it is the caller's part.
        until("a SET behind the lost connection", async || Ok(one.set::<_, _, ()>("rrphoenix", counted.get()).await.is_ok())).await?;
        let after: u64 = cmd("CLIENT").arg("ID").query_async(&mut one).await?;
        let seen: u64 = killer.get("rrphoenix").await?;
        ensure!(after != before && seen == counted.get(), "connection {before} and then {after}; the key in database 7 is {seen}");
        add_one(&counted);
        Ok(())
    });
    workers.across_flips(&count, 5).await
}

/// Client-side caching as the library has it: what others change must not be read from the cache for ever.
async fn tracking() -> Result<()> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(PATIENCE);
    let config = config.set_cache_config(redis::caching::CacheConfig::new());
    let (mut one, mut other, count) =
        (client(0)?.get_multiplexed_async_connection_with_config(&config).await?, connect(0).await?, Count::default());
    let mut workers = Workers::default();
    let counted = count.clone();
    workers.repeat(async move || {
        let () = other.set("rrtracked", counted.get()).await?;
        until("the invalidation", async || Ok(one.get::<_, u64>("rrtracked").await? == counted.get())).await?;
        add_one(&counted);
        Ok(())
    });
    workers.across_flips(&count, 10).await
}

fn main() -> Result<()> {
    let phases: [Phase; 10] = [
        Box::pin(handshake()),
        Box::pin(pipeline()),
        Box::pin(transaction()),
        Box::pin(watch()),
        Box::pin(script()),
        Box::pin(pubsub()),
        Box::pin(blocking()),
        Box::pin(streams()),
        Box::pin(scan()),
        Box::pin(reconnect()),
    ];
    run_library(phases, Box::pin(tracking()))
}
