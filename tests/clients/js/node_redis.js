"use strict";
// node-redis (`redis`), RESP2 and RESP3.

const { createClient, createClientPool, defineScript, WatchError } = require("redis");
const { host, port, password, protocol, flip, check, equal, until, working, oneByOne, readOn, run, closing, range } = require("./common.js");

const open = new Set();
const settings = (options) => ({ socket: { host, port, reconnectStrategy: () => 5 }, password, RESP: protocol, ...options });
async function client(options = {}) {
  const redis = createClient(settings(options));
  redis.on("error", () => {});
  open.add(redis);
  return redis.connect();
}
const close = () => {
  for (const redis of open) redis.destroy();
  open.clear();
};

async function handshake() {
  const one = await client({ database: 5, name: "node-redis" });
  await one.set("handshake", "five");
  let done = 0;
  await working([async () => { equal(await one.get("handshake"), "five", "the key"); done++; }], (w) => w.acrossFlips(() => done, 10));
  equal(await one.clientGetName(), "node-redis", "the name");
  const info = await one.clientInfo();
  equal([info.name, info.db, info.id], ["node-redis", 5, await one.clientId()], "CLIENT INFO");
  check((await one.clientList()).some((entry) => entry.id === info.id), "CLIENT LIST has not this client");
  equal(await (await client()).get("handshake"), null, "the key of database 5 in database 0");
  const wrong = createClient({ socket: { host, port, reconnectStrategy: false }, password: "no", RESP: protocol });
  wrong.on("error", () => {});
  const refused = await wrong.connect().catch((error) => error);
  check(refused instanceof Error, "served with a wrong password");
}

async function pipeline() {
  const one = await client();
  let rounds = 0;
  const work = async () => {
    // What is sent in one turn of the event loop is one pipeline.
    const counts = await Promise.all(range(0, 50).map(() => one.incr("nrpipe:count")));
    equal(counts, range(rounds * 50 + 1, rounds * 50 + 51), "the counts");
    const multi = one.multi();
    for (let n = 0; n < 50; n++) multi.rPush("nrpipe:list", String(rounds));
    equal(await multi.execAsPipeline(), range(rounds * 50 + 1, rounds * 50 + 51), "the lengths");
    rounds++;
  };
  await working([work], (w) => w.acrossFlips(() => rounds, 10));
}

async function transaction() {
  const one = await client();
  let rounds = 0;
  const work = async () => {
    const [a, b] = await one.multi().decrBy("nrtx:a", 3).incrBy("nrtx:b", 3).exec();
    equal(a + b, 0, "the sum");
    rounds++;
  };
  await working([work], (w) => w.acrossFlips(() => rounds, 20));
  equal(Number(await one.get("nrtx:b")), rounds * 3, "what was moved");
}

async function watch() {
  const one = await client();
  const pool = createClientPool(settings({}), { minimum: 4, maximum: 4 });
  pool.on("error", () => {});
  await pool.connect();
  let done = 0;
  const work = async () => {
    try {
      await pool.execute(async (mine) => {
        await mine.watch("nrwatch:sum");
        const value = Number(await mine.get("nrwatch:sum"));
        await mine.multi().set("nrwatch:sum", value + 1).exec();
      });
      done++;
    } catch (error) {
      if (!(error instanceof WatchError)) throw error;
    }
  };
  await working([work, work, work, work], (w) => w.acrossFlips(() => done, 40));
  equal(Number(await one.get("nrwatch:sum")), done, "the sum");
  pool.destroy();
}

async function script() {
  const countTwo = defineScript({
    SCRIPT: "redis.call('RPUSH', KEYS[2], ARGV[1]) return redis.call('INCRBY', KEYS[1], ARGV[1])",
    NUMBER_OF_KEYS: 2,
    parseCommand(parser, count, list, by) {
      parser.pushKey(count);
      parser.pushKey(list);
      parser.push(String(by));
    },
    transformReply: undefined,
  });
  const one = await client({ scripts: { countTwo } });
  let rounds = 0;
  const work = async () => {
    if (rounds % 10 === 9) await one.scriptFlush();
    rounds++;
    equal(await one.countTwo("nrscript:count", "nrscript:list", 2), rounds * 2, "the script's answer");
  };
  await working([work], (w) => w.acrossFlips(() => rounds, 20));
  equal(await one.lLen("nrscript:list"), rounds, "the list's length");
  const sha = await one.scriptLoad("return 7");
  equal([await one.scriptExists([sha, "f".repeat(40)]), await one.evalSha(sha)], [[1, 0], 7], "SCRIPT LOAD, EXISTS, EVALSHA");
  const error = await one.evalSha("f".repeat(40)).catch((error) => error);
  check(String(error.message).startsWith("NOSCRIPT"), "EVALSHA of what nobody has loaded:", error);
}

async function pubsub() {
  const [one, subscriber] = [await client(), await client()];
  const [got, byPattern, sharded] = [[], [], []];
  await subscriber.subscribe("nrnews", (message) => got.push(Number(message)));
  await subscriber.pSubscribe("nrne*", (message) => byPattern.push(Number(message)));
  await subscriber.sSubscribe("nrshard", (message) => sharded.push(Number(message)));
  let sent = 0;
  const publish = async () => {
    const n = String(sent++);
    equal(await Promise.all([one.publish("nrnews", n), one.sPublish("nrshard", n)]), [2, 1], "receivers");
  };
  const least = () => Math.min(got.length, byPattern.length, sharded.length);
  await working([publish], (w) => w.acrossFlips(least, 100));
  await working([], (w) => w.until(() => least() >= sent, `the last of ${sent} messages`));
  equal(got, range(0, sent), "the messages");
  equal(byPattern, range(0, sent), "the messages by pattern");
  equal(sharded, range(0, sent), "the sharded messages");
  equal(await one.pubSubNumPat(), 1, "PUBSUB NUMPAT");
  await subscriber.unsubscribe();
  await subscriber.pUnsubscribe();
  await subscriber.sUnsubscribe();
  equal(await subscriber.get("nrnothing"), null, "an ordinary command behind it");
}

async function blocking() {
  const [one, parked] = [await client(), await client()];
  const pop = async () => (await parked.blPop(["nrblock:none", "nrblock:list"], 1))?.element ?? null;
  await oneByOne((n) => one.rPush("nrblock:list", String(n)), pop, 30);
  const move = async () => {
    const element = await parked.blMove("nrblock:from", "nrblock:to", "LEFT", "RIGHT", 1);
    if (element !== null) equal(await parked.brPopLPush("nrblock:to", "nrblock:last", 1), element, "BRPOPLPUSH");
    return element;
  };
  await oneByOne((n) => one.rPush("nrblock:from", String(n)), move, 20);
  await one.zAdd("nrblock:zset", [{ score: 2, value: "b" }, { score: 1, value: "a" }]);
  equal({ ...(await parked.bzPopMin("nrblock:zset", 1)) }, { key: "nrblock:zset", value: "a", score: 1 }, "BZPOPMIN");
}

async function streams() {
  const one = await client();
  await one.xGroupCreate("nrstream", "group", "$", { MKSTREAM: true });
  const [tail, read] = [[], []];
  let [sent, last] = [0, "0"];
  const [follower, a, b] = [await client(), await client(), await client()];
  const entries = (reply) => {
    const streams = Array.isArray(reply) ? reply.map((stream) => stream.messages) : Object.values(reply ?? {});
    return streams.flat().map((entry) => [entry.id, Number(entry.message.n)]);
  };
  const follow = async () => {
    for (const [id, n] of entries(await follower.xRead({ key: "nrstream", id: last }, { BLOCK: 500 }))) {
      tail.push(n);
      last = id;
    }
  };
  const consumer = (mine, name) => async () => {
    for (const [id, n] of entries(await mine.xReadGroup("group", name, { key: "nrstream", id: ">" }, { BLOCK: 500, COUNT: 5 }))) {
      read.push(n);
      equal(await mine.xAck("nrstream", "group", id), 1, "XACK");
    }
  };
  const add = async () => { if (sent < tail.length + 3) await one.xAdd("nrstream", "*", { n: String(sent++) }); };
  await working([follow, consumer(a, "a"), consumer(b, "b"), add], (w) => w.acrossFlips(() => Math.min(tail.length, read.length), 40));
  await readOn(follow, tail, sent, "the tail");
  await readOn(consumer(a, "a"), read, sent, "the group");
  equal(tail, range(0, sent), "the tail");
  equal(read.sort((x, y) => x - y), range(0, sent), "what the group delivered");
  equal((await one.xPending("nrstream", "group")).pending, 0, "pending entries");
}

async function scan() {
  const one = await client();
  const keys = range(0, 600).map((n) => `nrscan:${n}`);
  await one.mSet(keys.flatMap((key) => [key, "x"]));
  const found = new Set();
  let pages = 0;
  for await (const page of one.scanIterator({ MATCH: "nrscan:*", COUNT: 20 })) {
    for (const key of page) found.add(key);
    pages++;
    if (pages === 5 || pages === 15) await flip();
  }
  check(pages > 15, "too few pages for two flips");
  equal(keys.filter((key) => !found.has(key)), [], "what SCAN misses");
}

async function reconnect() {
  const killer = await client({ database: 7 });
  const one = await client({ database: 7, name: "nrphoenix" });
  let deaths = 0;
  const work = async () => {
    const before = await one.clientId();
    equal(await killer.clientKill({ filter: "ID", id: before }), 1, "CLIENT KILL");
    // A command that was on its way when the connection died is not repeated by the library: that is the caller's part.
    await until(() => one.set("nrphoenix", deaths).then(() => true, () => false), "a SET behind the lost connection");
    check((await one.clientId()) !== before, "still the same connection");
    equal([await one.clientGetName(), await killer.get("nrphoenix")], ["nrphoenix", String(deaths)], "the name, and the key in database 7");
    deaths++;
  };
  await working([work], (w) => w.acrossFlips(() => deaths, 5));
}

async function tracking() {
  const one = await client({ clientSideCache: { ttl: 0, maxEntries: 0 } });
  const other = await client();
  let changes = 0;
  const work = async () => {
    await other.set("nrtracked", changes);
    await working([], (w) => w.until(async () => (await one.get("nrtracked")) === String(changes), "the invalidation"));
    changes++;
  };
  await working([work], (w) => w.acrossFlips(() => changes, 10));
}

const phases = [handshake, pipeline, transaction, watch, script, pubsub, blocking, streams, scan, reconnect];
run([...phases, ...(protocol === 3 ? [tracking] : [])].map(closing(close)));
