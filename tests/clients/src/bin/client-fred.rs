//! The Rust crate `fred`: clients, transactions, the subscriber client, RESP2 and RESP3.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::{Result, ensure};
use fred::clients::{Client, SubscriberClient};
use fred::prelude::*;
use fred::types::RespVersion;
use fred::types::client::ClientKillFilter;
use fred::types::lists::LMoveDirection;
use fred::types::scripts::Script;
use fred::types::streams::XReadResponse;
use twinlane_clients::program::{Count, Phase, Place, Workers, add_one, flip, flips, run_library, until};

fn builder(db: u8) -> Result<Builder> {
    let place = Place::from_env()?;
    let mut config = Config::from_url(&place.url(db))?;
    config.version = if place.protocol == 3 { RespVersion::RESP3 } else { RespVersion::RESP2 };
    let mut builder = Builder::from_config(config);
    builder.set_policy(ReconnectPolicy::new_constant(0, 5));
    Ok(builder)
}

async fn connect(db: u8) -> Result<Client> {
    let client = builder(db)?.build()?;
    client.init().await?;
    Ok(client)
}

async fn handshake() -> Result<()> {
    let (one, count) = (connect(5).await?, Count::default());
    one.client_setname("fred").await?;
    let () = one.set("handshake", "five", None, None, false).await?;
    let mut workers = Workers::default();
    let (reader, counted) = (one.clone(), count.clone());
    workers.repeat(async move || {
        let value: String = reader.get("handshake").await?;
        ensure!(value == "five", "the key is {value}");
        add_one(&counted);
        Ok(())
    });
    workers.across_flips(&count, 10).await?;
    let name: String = one.client_getname().await?;
    ensure!(name == "fred", "the name is {name}");
    let elsewhere: Option<String> = connect(0).await?.get("handshake").await?;
    ensure!(elsewhere.is_none(), "the key of database 5 is in database 0");
    let place = Place { password: "no".into(), ..Place::from_env()? };
    let wrong = Builder::from_config(Config { fail_fast: true, ..Config::from_url(&place.url(0))? }).build()?;
    ensure!(wrong.init().await.is_err(), "served with a wrong password");
    Ok(())
}

async fn pipeline() -> Result<()> {
    let (one, count) = (connect(0).await?, Count::default());
    let mut workers = Workers::default();
    let counted = count.clone();
    workers.repeat(async move || {
        let batch = one.pipeline();
        for _ in 0..50 {
            let () = batch.incr("fredpipe:count").await?;
        }
        let replies: Vec<u64> = batch.all().await?;
        let first = counted.get() * 50 + 1;
        ensure!(replies == (first..first + 50).collect::<Vec<_>>(), "{replies:?} does not follow {first}");
        add_one(&counted);
        Ok(())
    });
    workers.across_flips(&count, 10).await
}

async fn transaction() -> Result<()> {
    let (one, count) = (connect(0).await?, Count::default());
    let (mut workers, mover, counted) = (Workers::default(), one.clone(), count.clone());
    workers.repeat(async move || {
        let transaction = mover.multi();
        let () = transaction.decr_by("fredtx:a", 3).await?;
        let () = transaction.incr_by("fredtx:b", 3).await?;
        let (a, b): (i64, i64) = transaction.exec(true).await?;
        ensure!(a + b == 0, "the sum of {a} and {b}");
        add_one(&counted);
        Ok(())
    });
    workers.across_flips(&count, 20).await?;
    let moved: u64 = one.get("fredtx:b").await?;
    ensure!(moved == 3 * count.get(), "moved {moved} in {} transactions", count.get());
    Ok(())
}

async fn watch() -> Result<()> {
    let (count, mut workers) = (Count::default(), Workers::default());
    for _ in 0..4 {
        let (one, counted) = (connect(0).await?, count.clone());
        workers.repeat(async move || {
            let () = one.custom(fred::cmd!("WATCH"), vec!["fredwatch:sum"]).await?;
            let value: Option<u64> = one.get("fredwatch:sum").await?;
            let transaction = one.multi();
            let () = transaction.set("fredwatch:sum", value.unwrap_or(0) + 1, None, None, false).await?;
            let done: Value = transaction.exec(true).await?;
            if !done.is_null() {
                add_one(&counted);
            }
            Ok(())
        });
    }
    workers.across_flips(&count, 40).await?;
    let sum: u64 = connect(0).await?.get("fredwatch:sum").await?;
    ensure!(sum == count.get(), "the sum is {sum}, {} increments were told", count.get());
    Ok(())
}

async fn script() -> Result<()> {
    let (one, count) = (connect(0).await?, Count::default());
    let counting = Script::from_lua("redis.call('RPUSH', KEYS[2], ARGV[1]) return redis.call('INCRBY', KEYS[1], ARGV[1])");
    let (mut workers, caller, counted) = (Workers::default(), one.clone(), count.clone());
    workers.repeat(async move || {
        if counted.get() % 10 == 9 {
            caller.script_flush(false).await?;
        }
        add_one(&counted);
        let got: u64 = counting.evalsha_with_reload(&caller, vec!["fredscript:count", "fredscript:list"], 2).await?;
        ensure!(got == 2 * counted.get(), "the script answers {got} at {}", counted.get());
        Ok(())
    });
    workers.across_flips(&count, 20).await?;
    let length: u64 = one.llen("fredscript:list").await?;
    ensure!(length == count.get(), "the list has {length} elements");
    Ok(())
}

async fn pubsub() -> Result<()> {
    let (one, sent, count) = (connect(0).await?, Count::default(), Count::default());
    let subscriber: SubscriberClient = builder(0)?.build_subscriber_client()?;
    subscriber.init().await?;
    let mut messages = subscriber.message_rx();
    subscriber.subscribe("frednews").await?;
    // `subscribe` does not wait for the server's confirmation.
    until("the subscription", async || Ok(one.pubsub_numsub::<Vec<String>, _>("frednews").await?.last().is_some_and(|count| count != "0")))
        .await?;
    let (mut workers, published) = (Workers::default(), sent.clone());
    workers.repeat(async move || {
        let receivers: u64 = one.publish("frednews", published.get()).await?;
        ensure!(receivers == 1, "{receivers} receivers of message {}", published.get());
        add_one(&published);
        Ok(())
    });
    let got = Rc::new(RefCell::new(Vec::new()));
    let (received, counted) = (got.clone(), count.clone());
    let listener: tokio::task::JoinHandle<Result<()>> = tokio::task::spawn_local(async move {
        loop {
            let number: u64 = messages.recv().await?.value.convert()?;
            received.borrow_mut().push(number);
            add_one(&counted);
        }
    });
    workers.across_flips(&count, 100).await?;
    Workers::default().until("the last message", || count.get() >= sent.get() || listener.is_finished()).await?;
    let wanted: Vec<u64> = (0..sent.get()).collect();
    ensure!(*got.borrow() == wanted, "{} messages sent, {} received", wanted.len(), got.borrow().len());
    Ok(())
}

async fn blocking() -> Result<()> {
    let (one, parked, sent, count) = (connect(0).await?, connect(0).await?, Count::default(), Count::default());
    let (mut workers, pusher, pushed, taken) = (Workers::default(), one.clone(), sent.clone(), count.clone());
    workers.repeat(async move || {
        // One more only when the one before has been taken: the consumer parks every time.
        if taken.get() == pushed.get() {
            let () = pusher.rpush("fredblock:list", pushed.get()).await?;
            add_one(&pushed);
        }
        Ok(())
    });
    let taken = count.clone();
    workers.repeat(async move || {
        let moved: Option<u64> = parked.blmove("fredblock:list", "fredblock:to", LMoveDirection::Left, LMoveDirection::Right, 1.0).await?;
        let Some(moved) = moved else { return Ok(()) };
        let (_, popped): (String, u64) = parked.blpop(vec!["fredblock:none", "fredblock:to"], 1.0).await?;
        ensure!((moved, popped) == (taken.get(), taken.get()), "moved {moved} and popped {popped}, not {}", taken.get());
        add_one(&taken);
        Ok(())
    });
    workers.across_flips(&count, 30).await?;
    let left: u64 = one.llen("fredblock:list").await?;
    ensure!(count.get() + left == sent.get(), "{} of {} taken, {left} left", count.get(), sent.get());
    Ok(())
}

async fn streams() -> Result<()> {
    let (one, sent, count) = (connect(0).await?, Count::default(), Count::default());
    let () = one.xgroup_create("fredstream", "group", "$", true).await?;
    let (mut workers, adder, added, read) = (Workers::default(), one.clone(), sent.clone(), count.clone());
    workers.repeat(async move || {
        if added.get() < read.get() + 4 {
            let () = adder.xadd("fredstream", false, None, "*", ("n", added.get())).await?;
            add_one(&added);
        }
        Ok(())
    });
    let got = Rc::new(RefCell::new(Vec::new()));
    for name in ["a", "b"] {
        let (mine, read, got) = (connect(0).await?, count.clone(), got.clone());
        workers.repeat(async move || {
            let reply: Value = mine.xreadgroup("group", name, Some(5), Some(300), false, "fredstream", ">").await?;
            if reply.is_null() {
                return Ok(());
            }
            let reply: XReadResponse<String, String, String, u64> = reply.into_xread_response()?;
            for (id, fields) in reply.into_values().flatten() {
                got.borrow_mut().push(fields["n"]);
                let acknowledged: u64 = mine.xack("fredstream", "group", id).await?;
                ensure!(acknowledged == 1, "XACK answers {acknowledged}");
                add_one(&read);
            }
            Ok(())
        });
    }
    workers.across_flips(&count, 40).await?;
    let left: Value = one.xreadgroup("group", "a", None, None, false, "fredstream", ">").await?;
    if !left.is_null() {
        let left: XReadResponse<String, String, String, u64> = left.into_xread_response()?;
        got.borrow_mut().extend(left.into_values().flatten().map(|(_, fields)| fields["n"]));
    }
    got.borrow_mut().sort_unstable();
    ensure!(*got.borrow() == (0..sent.get()).collect::<Vec<_>>(), "{} entries delivered of {}", got.borrow().len(), sent.get());
    Ok(())
}

async fn scan() -> Result<()> {
    let one = connect(0).await?;
    let keys: BTreeSet<String> = (0..600).map(|n| format!("fredscan:{n}")).collect();
    let () = one.mset(keys.iter().map(|key| (key.clone(), "x")).collect::<std::collections::HashMap<_, _>>()).await?;
    let (mut cursor, mut pages, mut found) = (String::from("0"), 0, BTreeSet::new());
    loop {
        let (next, page): (String, Vec<String>) = one.scan_page(cursor, "fredscan:*", Some(20), None).await?;
        found.extend(page);
        pages += 1;
        if pages == 5 || pages == 15 {
            flip().await?;
        }
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    ensure!(pages > 15, "too few pages for two flips");
    ensure!(keys.is_subset(&found), "SCAN misses {} keys", keys.difference(&found).count());
    Ok(())
}

async fn reconnect() -> Result<()> {
    let (one, killer, count) = (connect(7).await?, connect(7).await?, Count::default());
    let (mut workers, counted) = (Workers::default(), count.clone());
    workers.repeat(async move || {
        let before: String = one.client_id().await?;
        let killed: u64 = killer.client_kill(vec![ClientKillFilter::ID(before.clone())]).await?;
        ensure!(killed == 1, "CLIENT KILL answers {killed}");
        // A command that finds the connection dead may fail; the library connects anew. Repeating it is the caller's part.
        until("a SET behind the lost connection", async || {
            Ok(one.set::<(), _, _>("fredphoenix", counted.get(), None, None, false).await.is_ok())
        })
        .await?;
        let after: String = one.client_id().await?;
        let seen: u64 = killer.get("fredphoenix").await?;
        ensure!(after != before && seen == counted.get(), "connection {before} and then {after}; the key in database 7 is {seen}");
        add_one(&counted);
        Ok(())
    });
    workers.across_flips(&count, 5).await
}

/// Every change by another client comes as an invalidation. A flip says that everything is invalid, as a server's FLUSHALL does, and
/// fred 10.1 drops that message in RESP3 (`broadcast_resp3_invalidation` takes arrays only): a round with a flip inside proves nothing.
async fn tracking() -> Result<()> {
    let (one, other, count) = (connect(0).await?, connect(0).await?, Count::default());
    one.start_tracking(None, false, false, false, false).await?;
    let mut invalidations = one.invalidation_rx();
    let (mut workers, counted) = (Workers::default(), count.clone());
    workers.repeat(async move || {
        let before = flips();
        let _: Option<u64> = one.get("fredtracked").await?;
        let () = other.set("fredtracked", counted.get(), None, None, false).await?;
        let mut flipped = Workers::default();
        let invalidation = tokio::select! {
            invalidation = invalidations.recv() => invalidation?,
            waited = flipped.until("the invalidation", || flips() > before) => return waited,
        };
        ensure!(
            invalidation.keys.iter().any(|key| key.as_bytes() == b"fredtracked") || invalidation.keys.is_empty(),
            "an invalidation of {:?}",
            invalidation.keys
        );
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
