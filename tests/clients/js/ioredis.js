"use strict";
// ioredis, RESP2 and RESP3.

const { Redis } = require("ioredis");
const { host, port, password, protocol, check, equal, working, oneByOne, readOn, run, closing, range, breath, flip } = require("./common.js");

const open = new Set();
function client(options = {}) {
  const redis = new Redis({ host, port, password, protocol, ...options });
  redis.on("error", () => {});
  open.add(redis);
  return redis;
}
const close = () => {
  for (const redis of open) redis.disconnect();
  open.clear();
};

async function handshake() {
  const one = client({ db: 5, connectionName: "ioredis" });
  await one.set("handshake", "five");
  let done = 0;
  await working([async () => { equal(await one.get("handshake"), "five", "the key"); done++; }], (w) => w.acrossFlips(() => done, 10));
  equal(await one.client("GETNAME"), "ioredis", "the name");
  const id = await one.client("ID");
  check((await one.client("LIST")).includes(`id=${id} `), "CLIENT LIST has not this client");
  equal(await client().get("handshake"), null, "the key of database 5 in database 0");
  const wrong = new Redis({ host, port, password: "no", protocol, retryStrategy: null, lazyConnect: true });
  wrong.on("error", () => {});
  const refused = await wrong.connect().then(() => wrong.ping()).then(() => null, (error) => error);
  check(refused, "served with a wrong password");
  wrong.disconnect();
  check((await one.info("server")).includes("redis_version"), "INFO");
}

async function pipeline() {
  const one = client();
  let rounds = 0;
  const work = async () => {
    const pipe = one.pipeline();
    for (let n = 0; n < 50; n++) pipe.incr("iopipe:count").rpush("iopipe:list", rounds);
    const replies = await pipe.exec();
    equal(replies.filter((_, n) => n % 2 === 0), range(rounds * 50 + 1, rounds * 50 + 51).map((n) => [null, n]), "the counts");
    rounds++;
  };
  await working([work], (w) => w.acrossFlips(() => rounds, 10));
  equal(await one.llen("iopipe:list"), rounds * 50, "the list's length");
  // What the library pipelines by itself.
  const auto = client({ enableAutoPipelining: true });
  equal(await Promise.all(range(0, 100).map(() => auto.incr("iopipe:auto"))), range(1, 101), "auto pipelining");
}

async function transaction() {
  const one = client();
  let rounds = 0;
  const work = async () => {
    const replies = await one.multi().decrby("iotx:a", 3).incrby("iotx:b", 3).mget("iotx:a", "iotx:b").exec();
    const [a, b] = replies[2][1].map(Number);
    equal(a + b, 0, "the sum");
    rounds++;
  };
  await working([work], (w) => w.acrossFlips(() => rounds, 20));
  equal(Number(await one.get("iotx:b")), rounds * 3, "what was moved");
  const [, failed] = await one.multi().set("iotx:text", "x").incr("iotx:text").exec();
  check(failed[0] instanceof Error, "INCR of a text", failed);
}

async function watch() {
  const one = client();
  let done = 0;
  const player = () => {
    const mine = client();
    return async () => {
      await mine.watch("iowatch:sum");
      const value = Number(await mine.get("iowatch:sum"));
      const replies = await mine.multi().set("iowatch:sum", value + 1).exec();
      if (replies) done++;
    };
  };
  await working([player(), player(), player(), player()], (w) => w.acrossFlips(() => done, 40));
  equal(Number(await one.get("iowatch:sum")), done, "the sum");
  const mine = client();
  await mine.watch("iowatch:sum");
  await one.incr("iowatch:sum");
  equal(await mine.multi().set("iowatch:sum", "lost").exec(), null, "EXEC behind a foreign write");
  await mine.watch("iowatch:sum");
  await mine.unwatch();
}

async function script() {
  const one = client();
  one.defineCommand("countTwo", { numberOfKeys: 2, lua: "redis.call('RPUSH', KEYS[2], ARGV[1]) return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  let rounds = 0;
  const work = async () => {
    if (rounds % 10 === 9) await one.script("FLUSH");
    rounds++;
    equal(await one.countTwo("ioscript:count", "ioscript:list", 2), rounds * 2, "the script's answer");
  };
  await working([work], (w) => w.acrossFlips(() => rounds, 20));
  equal(await one.llen("ioscript:list"), rounds, "the list's length");
  const error = await one.evalsha("f".repeat(40), 0).catch((error) => error);
  check(String(error.message).startsWith("NOSCRIPT"), "EVALSHA of what nobody has loaded:", error);
}

async function pubsub() {
  const [one, subscriber] = [client(), client()];
  const [got, byPattern] = [[], []];
  subscriber.on("message", (_channel, message) => got.push(Number(message)));
  subscriber.on("pmessage", (_pattern, _channel, message) => byPattern.push(Number(message)));
  equal(await subscriber.subscribe("ionews"), 1, "SUBSCRIBE");
  equal(await subscriber.psubscribe("ione*"), 2, "PSUBSCRIBE");
  let sent = 0;
  const publish = async () => equal(await one.publish("ionews", sent++), 2, "receivers");
  await working([publish], (w) => w.acrossFlips(() => Math.min(got.length, byPattern.length), 100));
  await working([], (w) => w.until(() => got.length >= sent && byPattern.length >= sent, `the last of ${sent} messages`));
  equal(got, range(0, sent), "the messages");
  equal(byPattern, range(0, sent), "the messages by pattern");
  equal(await one.pubsub("NUMSUB", "ionews"), ["ionews", 1], "PUBSUB NUMSUB");
  equal(await subscriber.unsubscribe("ionews"), 1, "UNSUBSCRIBE");
  equal(await subscriber.punsubscribe("ione*"), 0, "PUNSUBSCRIBE");
  equal(await subscriber.get("ionothing"), null, "an ordinary command behind it");
}

async function blocking() {
  const [one, parked] = [client(), client()];
  const pop = async () => (await parked.blpop("ioblock:none", "ioblock:list", 1))?.[1] ?? null;
  await oneByOne((n) => one.rpush("ioblock:list", n), pop, 30);
  const move = async () => {
    const element = await parked.blmove("ioblock:from", "ioblock:to", "LEFT", "RIGHT", 1);
    if (element !== null) equal(await parked.brpoplpush("ioblock:to", "ioblock:last", 1), element, "BRPOPLPUSH");
    return element;
  };
  await oneByOne((n) => one.rpush("ioblock:from", n), move, 20);
  await one.zadd("ioblock:zset", 2, "b", 1, "a");
  const [key, member, score] = await parked.bzpopmin("ioblock:zset", 1);
  equal([key, member, Number(score)], ["ioblock:zset", "a", 1], "BZPOPMIN");
}

const streamNumbers = (reply) => {
  if (!reply) return [];
  const streams = Array.isArray(reply) ? reply : Object.entries(reply);
  return streams.flatMap(([, entries]) => entries.map(([id, fields]) => [id, Number(Array.isArray(fields) ? fields[1] : fields.n)]));
};

async function streams() {
  const one = client();
  await one.xgroup("CREATE", "iostream", "group", "$", "MKSTREAM");
  const [tail, read] = [[], []];
  let [sent, last] = [0, "0"];
  const [follower, a, b] = [client(), client(), client()];
  const follow = async () => {
    for (const [id, n] of streamNumbers(await follower.xread("BLOCK", 500, "STREAMS", "iostream", last))) {
      tail.push(n);
      last = id;
    }
  };
  const consumer = (mine, name) => async () => {
    for (const [id, n] of streamNumbers(await mine.xreadgroup("GROUP", "group", name, "COUNT", 5, "BLOCK", 500, "STREAMS", "iostream", ">"))) {
      read.push(n);
      equal(await mine.xack("iostream", "group", id), 1, "XACK");
    }
  };
  const add = async () => { if (sent < tail.length + 3) await one.xadd("iostream", "*", "n", sent++); };
  await working([follow, consumer(a, "a"), consumer(b, "b"), add], (w) => w.acrossFlips(() => Math.min(tail.length, read.length), 40));
  await readOn(follow, tail, sent, "the tail");
  await readOn(consumer(a, "a"), read, sent, "the group");
  equal(tail, range(0, sent), "the tail");
  equal(read.sort((x, y) => x - y), range(0, sent), "what the group delivered");
  equal((await one.xpending("iostream", "group"))[0], 0, "pending entries");
}

async function scan() {
  const one = client();
  const keys = range(0, 600).map((n) => `ioscan:${n}`);
  await one.mset(...keys.flatMap((key) => [key, "x"]));
  const found = new Set();
  let pages = 0;
  await working([], async (w) => {
    const stream = one.scanStream({ match: "ioscan:*", count: 20 });
    let ended = false;
    stream.on("data", (page) => { pages++; for (const key of page) found.add(key); });
    stream.on("end", () => (ended = true));
    stream.on("error", (error) => (w.error = error));
    for (const goal of [5, 15]) {
      await w.until(() => pages >= goal, "pages of SCAN");
      stream.pause();
      await flip();
      stream.resume();
    }
    await w.until(() => ended, "the end of SCAN");
  });
  equal(keys.filter((key) => !found.has(key)), [], "what SCAN misses");
}

async function reconnect() {
  const killer = client({ db: 7 });
  const one = client({ db: 7, connectionName: "iophoenix", retryStrategy: () => 5 });
  let deaths = 0;
  const work = async () => {
    const before = await one.client("ID");
    equal(await killer.client("KILL", "ID", before), 1, "CLIENT KILL");
    // What was sent to the dying connection is sent again by the library.
    await one.set("iophoenix", deaths);
    check((await one.client("ID")) !== before, "still the same connection");
    equal([await one.client("GETNAME"), await killer.get("iophoenix")], ["iophoenix", String(deaths)], "the name, and the key in database 7");
    deaths++;
    await breath(1);
  };
  await working([work], (w) => w.acrossFlips(() => deaths, 5));
}

run([handshake, pipeline, transaction, watch, script, pubsub, blocking, streams, scan, reconnect].map(closing(close)));
