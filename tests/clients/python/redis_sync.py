"""redis-py, the blocking client, RESP2 and RESP3."""

import random
import threading

import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

from common import HOST, PASSWORD, PORT, PROTOCOL, check, equal, patience, run, working


def client(**options):
    options = {"decode_responses": True, "protocol": PROTOCOL, **options}
    return redis.Redis(host=HOST, port=PORT, password=PASSWORD, **options)


def handshake():
    named = client(db=5, client_name="redis-py")
    with named.client() as one:
        one.set("handshake", "five")
        with working(lambda: equal(one.get("handshake"), "five", "the key")) as workers:
            workers.across_flips(lambda: named.incr("handshake:count"), 5)
        equal(one.client_getname(), "redis-py", "the name")
        info = one.client_info()
        equal((info["name"], info["db"]), ("redis-py", "5" if isinstance(info["db"], str) else 5), "CLIENT INFO")
        check(one.client_id() in [int(entry["id"]) for entry in named.client_list()], "CLIENT LIST has not this client")
    equal(client().get("handshake"), None, "the key of database 5 in database 0")
    for wrong in ({"password": "no"}, {"password": None}):
        try:
            redis.Redis(**{"host": HOST, "port": PORT, "protocol": PROTOCOL, **wrong}).ping()
            check(False, "served with", wrong)
        except redis.AuthenticationError:
            pass
    check(named.ping() and named.echo("hello") == "hello", "PING, ECHO")
    check("redis_version" in named.info() and named.info("keyspace"), "INFO")
    equal(named.command_count() > 200, True, "COMMAND COUNT")


def pipeline():
    one, done = client(), []

    def work():
        pipe = one.pipeline(transaction=False)
        for _ in range(50):
            pipe.incr("pipeline:count").rpush("pipeline:list", len(done))
        replies = pipe.execute()
        first = len(done) * 50 + 1
        equal(replies[::2], list(range(first, first + 50)), "the counts")
        equal(replies[1::2], list(range(first, first + 50)), "the lengths")
        done.append(None)

    with working(work) as workers:
        workers.across_flips(lambda: len(done), 10)
    equal(one.llen("pipeline:list"), len(done) * 50, "the list's length")


def transaction():
    one, done = client(), []

    def work():
        amount = random.randrange(100)
        pipe = one.pipeline(transaction=True)
        pipe.decrby("tx:a", amount).incrby("tx:b", amount).hset("tx:log", len(done), amount).mget("tx:a", "tx:b")
        *_, new, (a, b) = pipe.execute()
        equal((new, int(a) + int(b)), (1, 0), "a new field, and the sum")
        done.append(None)

    one.mset({"tx:a": 0, "tx:b": 0})
    with working(work) as workers:
        workers.across_flips(lambda: len(done), 20)
    equal(one.hlen("tx:log"), len(done), "the transactions")
    # An error among the commands, and one that refuses the whole transaction.
    replies = one.pipeline().set("tx:text", "x").incr("tx:text").get("tx:text").execute(raise_on_error=False)
    check(replies[0] is True and isinstance(replies[1], redis.ResponseError) and replies[2] == "x", replies)


def watch():
    """Four clients increment by reading and writing; WATCH must not let one increment get lost."""
    one, done = client(), []

    def work():
        def increment(pipe):
            value = int(pipe.get("watch:sum") or 0)
            pipe.multi()
            pipe.set("watch:sum", value + 1)
            pipe.rpush("watch:seen", value + 1)

        one.transaction(increment, "watch:sum")
        done.append(None)

    with working(work, work, work, work) as workers:
        workers.across_flips(lambda: len(done), 40)
    equal(int(one.get("watch:sum")), len(done), "the sum")
    equal([int(n) for n in one.lrange("watch:seen", 0, -1)], list(range(1, len(done) + 1)), "the order of the sums")
    with one.pipeline() as pipe:
        pipe.watch("watch:sum")
        one.incr("watch:sum")
        pipe.multi()
        pipe.set("watch:sum", "lost")
        try:
            pipe.execute()
            check(False, "EXEC behind a foreign write")
        except redis.WatchError:
            pass
        pipe.watch("watch:sum")
        pipe.unwatch()


def script():
    one, done = client(), []
    count = one.register_script("redis.call('RPUSH', KEYS[2], ARGV[1]) return redis.call('INCRBY', KEYS[1], ARGV[1])")

    def work():
        if len(done) % 10 == 9:
            one.script_flush()
        got = count(keys=["script:count", "script:list"], args=[2])
        done.append(None)
        equal(got, 2 * len(done), "the script's answer")

    with working(work) as workers:
        workers.across_flips(lambda: len(done), 20)
    equal(one.llen("script:list"), len(done), "the list's length")
    equal(one.eval("return {KEYS[1], ARGV[1], {1, 2}}", 1, "script:k", "v"), ["script:k", "v", [1, 2]], "EVAL")
    try:
        one.evalsha("f" * 40, 0)
        check(False, "EVALSHA of what nobody has loaded")
    except redis.exceptions.NoScriptError:
        pass
    sha = one.script_load("return 7")
    equal((one.script_exists(sha, "f" * 40), one.evalsha(sha, 0)), ([True, False], 7), "SCRIPT LOAD, EXISTS, EVALSHA")


def pubsub():
    """Numbered messages: none lost, none doubled, in order."""
    one, sent, got, by_pattern = client(), [], [], []
    subscription = one.pubsub()
    subscription.subscribe("news")
    subscription.psubscribe("new*")
    for _ in range(2):
        check(subscription.get_message(timeout=30)["type"] in ("subscribe", "psubscribe"), "the confirmation")

    def publish():
        equal(one.publish("news", len(sent)), 2, "receivers")
        sent.append(len(sent))

    def listen():
        message = subscription.get_message(timeout=0.05)
        if message and message["type"] == "message":
            got.append(int(message["data"]))
        elif message:
            equal(message["type"], "pmessage", "the type")
            by_pattern.append(int(message["data"]))

    with working(publish, listen) as workers:
        workers.across_flips(lambda: min(len(got), len(by_pattern)), 100)
        workers.stopped.set()
        for thread in workers.threads:
            thread.join()
    while len(got) < len(sent) or len(by_pattern) < len(sent):
        before = len(got) + len(by_pattern)
        message = subscription.get_message(timeout=5)
        check(message, "messages were lost:", len(sent), "sent,", len(got), "and", len(by_pattern), "received")
        (got if message["type"] == "message" else by_pattern).append(int(message["data"]))
    equal(got, sent, "the messages")
    equal(by_pattern, sent, "the messages by pattern")
    equal((one.pubsub_numsub("news"), one.pubsub_numpat()), ([("news", 1)], 1), "PUBSUB NUMSUB, NUMPAT")
    subscription.unsubscribe()
    subscription.punsubscribe()
    subscription.close()


def one_by_one(one, name, take, step):
    """A consumer that is parked when the flip comes. Returns the elements of the list, each of which came once and in order."""
    got, sent = [], []

    def consume():
        element = take()
        if element is not None:
            got.append(int(element))

    def produce():
        # One more only when the one before has been taken: the consumer parks every time.
        if len(got) == len(sent):
            one.rpush(name, len(sent))
            sent.append(len(sent))

    with working(consume, produce) as workers:
        workers.across_flips(lambda: len(got), step)
    in_time = patience(f"an empty {name}")
    while one.llen(name):
        in_time()
        consume()
    equal(got, sent, f"the elements of {name}")
    return sent


def blocking():
    """A consumer that is parked when the flip comes, and a stream of elements in order."""
    one, parked = client(), client()

    def pop():
        popped = parked.blpop(["block:none", "block:list"], timeout=1)
        if popped:
            equal(popped[0], "block:list", "the list")
            return popped[1]

    one_by_one(one, "block:list", pop, 30)

    def move():
        element = parked.blmove("block:from", "block:to", 1, "LEFT", "RIGHT")
        if element is not None:
            # One step further, by the older command.
            equal(parked.brpoplpush("block:to", "block:last", 1), element, "BRPOPLPUSH")
        return element

    pushed = one_by_one(one, "block:from", move, 20)
    equal([int(n) for n in reversed(one.lrange("block:last", 0, -1))], pushed, "the list at the end")
    one.zadd("block:zset", {"b": 2, "a": 1})
    equal(list(parked.bzpopmin("block:zset", 1)), ["block:zset", "a", 1.0], "BZPOPMIN")
    equal(parked.blpop(["block:none"], timeout=0.05), None, "BLPOP of nothing")


def streams():
    """A tail with XREAD BLOCK and two consumers of a group: every entry once."""
    one, sent, tail, read = client(), [], [], []
    one.xgroup_create("stream", "group", id="$", mkstream=True)
    position, lock = ["0"], threading.Lock()

    def entries(reply):
        if not reply:
            return []
        groups = reply.items() if isinstance(reply, dict) else reply
        flat = []
        for _, found in groups:
            flat += found[0] if isinstance(found[0], list) and found[0] and isinstance(found[0][0], (list, tuple)) else found
        return flat

    def follow():
        for entry, fields in entries(one.xread({"stream": position[0]}, block=1000)):
            tail.append(int(fields["n"]))
            position[0] = entry

    def consumer(name):
        def consume():
            for entry, fields in entries(one.xreadgroup("group", name, {"stream": ">"}, count=5, block=1000)):
                with lock:
                    read.append(int(fields["n"]))
                equal(one.xack("stream", "group", entry), 1, "XACK")

        return consume

    def add():
        if len(tail) + 3 > len(sent):
            one.xadd("stream", {"n": len(sent)})
            sent.append(len(sent))

    with working(follow, consumer("a"), consumer("b"), add) as workers:
        workers.across_flips(lambda: min(len(tail), len(read)), 40)
        workers.stopped.set()
        workers.threads[3].join()
        for thread in workers.threads:
            thread.join(5)
    while len(tail) < len(sent):
        before = len(tail)
        follow()
        check(len(tail) > before, "the tail lost entries:", len(tail), "of", len(sent))
    while len(read) < len(sent):
        before = len(read)
        consumer("a")()
        check(len(read) > before, "the group lost entries:", len(read), "of", len(sent))
    equal(tail, sent, "the tail")
    equal(sorted(read), sent, "what the group delivered")
    equal(one.xpending("stream", "group")["pending"], 0, "pending entries")


def scan():
    """A cursor that has seen both sides: everything that was there all the time comes out."""
    one = client()
    keys = {f"scan:{n}" for n in range(600)}
    pipe = one.pipeline(transaction=False)
    for n, key in enumerate(sorted(keys)):
        pipe.set(key, "x").sadd("scanset", key).hset("scanhash", key, n).zadd("scanzset", {key: n})
    pipe.execute()
    for name, step in (
        ("SCAN", lambda cursor: one.scan(cursor, match="scan:*", count=20)),
        ("SSCAN", lambda cursor: one.sscan("scanset", cursor, count=20)),
        ("HSCAN", lambda cursor: one.hscan("scanhash", cursor, count=20)),
        ("ZSCAN", lambda cursor: one.zscan("scanzset", cursor, count=20)),
    ):
        found, cursor, calls = set(), 0, 0
        with working() as workers:
            def progress():
                nonlocal cursor, calls
                if cursor == 0 and calls:
                    return 10**9
                cursor, page = step(cursor)
                calls += 1
                found.update(item[0] if isinstance(item, (tuple, list)) else item for item in page)
                return calls

            workers.across_flips(progress, 8)
            while cursor != 0:
                progress()
        check(keys <= found, name, "misses", len(keys - found), "of", len(keys))
    equal(set(one.scan_iter(match="scan:1*", count=50)), {key for key in keys if key.startswith("scan:1")}, "scan_iter")


def reconnect():
    """A connection that is killed comes back by itself, with its name and its database."""
    killer = client(db=7)
    one = client(db=7, client_name="phoenix", retry=redis.retry.Retry(redis.backoff.ExponentialBackoff(cap=0.1, base=0.01), 20),
                 retry_on_error=[ConnectionError, redis.ConnectionError], single_connection_client=True)
    deaths = []

    def work():
        before = one.client_id()
        equal(killer.client_kill_filter(_id=before), 1, "CLIENT KILL")
        one.set("phoenix", len(deaths))
        check(one.client_id() != before, "still the same connection")
        equal((one.client_getname(), killer.get("phoenix")), ("phoenix", str(len(deaths))), "the name, and the key in database 7")
        deaths.append(None)

    with working(work) as workers:
        workers.across_flips(lambda: len(deaths), 5)


def tracking():
    """Client-side caching as the library has it: what others change must not be read from the cache for ever."""
    # The library asks for Redis 7.4; what it needs has been there since 6, and is in Valkey.
    CacheProxyConnection.DEFAULT_SERVER_NAME, CacheProxyConnection.MIN_ALLOWED_VERSION = "valkey", "8.0.0"
    one, other, done = client(cache_config=CacheConfig()), client(), []

    def work():
        number = len(done)
        other.set("tracked", number)
        workers.until(lambda: one.get("tracked") == str(number), "the invalidation")
        done.append(None)

    with working() as workers:
        def progress():
            work()
            return len(done)

        workers.across_flips(progress, 10)
    check(one.get_cache() is not None and one.get_cache().size > 0, "nothing was cached")


run([handshake, pipeline, transaction, watch, script, pubsub, blocking, streams, scan, reconnect] + [tracking] * (PROTOCOL == 3))
