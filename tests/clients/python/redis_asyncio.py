"""redis-py, the asyncio client, RESP2 and RESP3."""

import asyncio
import sys
from contextlib import asynccontextmanager

import redis
import redis.asyncio

from common import HOST, PASSWORD, PATIENCE, PHASE, PORT, PROTOCOL, check, equal, patience, reported, say, wanted


def client(**options):
    return redis.asyncio.Redis(host=HOST, port=PORT, password=PASSWORD, decode_responses=True, protocol=PROTOCOL, **options)


async def flip():
    say("flip")
    answer = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    check(answer, "the harness has gone")


class Workers:
    """Coroutine functions that are called again and again. An error in one is the phase's error."""

    def __init__(self, functions):
        self.stopped = False
        self.tasks = [asyncio.create_task(self.work(function)) for function in functions]

    async def work(self, function):
        while not self.stopped:
            await function()
            await asyncio.sleep(0)

    def raise_error(self):
        for task in self.tasks:
            if task.done():
                task.result()

    async def until(self, condition, what):
        in_time = patience(what)
        while not condition():
            self.raise_error()
            in_time()
            await asyncio.sleep(0.002)

    async def across_flips(self, progress, step):
        for ask in (flip, flip, None):
            goal = progress() + step
            await self.until(lambda: progress() >= goal, f"{step} more of the work, {progress()} done")
            if ask:
                await ask()

    async def stop(self):
        self.stopped = True
        await asyncio.wait_for(asyncio.gather(*self.tasks), PATIENCE)


@asynccontextmanager
async def working(*functions):
    workers = Workers(functions)
    try:
        yield workers
        await workers.stop()
    finally:
        for task in workers.tasks:
            task.cancel()


async def handshake():
    async with client(db=5, client_name="asyncio").client() as one:
        await one.set("handshake", "five")
        equal(await one.client_getname(), "asyncio", "the name")
        done = []

        async def work():
            equal(await one.get("handshake"), "five", "the key")
            done.append(None)

        async with working(work) as workers:
            await workers.across_flips(lambda: len(done), 10)
        check(await one.client_id() in [int(entry["id"]) for entry in await one.client_list()], "CLIENT LIST has not this client")
    async with client() as one:
        equal(await one.get("handshake"), None, "the key of database 5 in database 0")
    try:
        await redis.asyncio.Redis(host=HOST, port=PORT, password="no", protocol=PROTOCOL).ping()
        check(False, "served with a wrong password")
    except redis.AuthenticationError:
        pass


async def pipeline():
    async with client() as one:
        done = []

        async def work():
            pipe = one.pipeline(transaction=False)
            for _ in range(50):
                pipe.incr("apipe:count").rpush("apipe:list", len(done))
            replies = await pipe.execute()
            equal(replies[::2], list(range(len(done) * 50 + 1, len(done) * 50 + 51)), "the counts")
            done.append(None)

        async with working(work) as workers:
            await workers.across_flips(lambda: len(done), 10)
        equal(await one.llen("apipe:list"), len(done) * 50, "the list's length")


async def transaction():
    async with client() as one:
        await one.mset({"atx:a": 0, "atx:b": 0})
        done = []

        async def work():
            pipe = one.pipeline(transaction=True)
            pipe.decrby("atx:a", 3).incrby("atx:b", 3).mget("atx:a", "atx:b")
            *_, (a, b) = await pipe.execute()
            equal(int(a) + int(b), 0, "the sum")
            done.append(None)

        async with working(work) as workers:
            await workers.across_flips(lambda: len(done), 20)
        equal(int(await one.get("atx:b")), 3 * len(done), "what was moved")


async def watch():
    async with client() as one:
        done = []

        async def work():
            async def increment(pipe):
                value = int(await pipe.get("awatch:sum") or 0)
                pipe.multi()
                pipe.set("awatch:sum", value + 1)

            await one.transaction(increment, "awatch:sum")
            done.append(None)

        async with working(work, work, work, work) as workers:
            await workers.across_flips(lambda: len(done), 40)
        equal(int(await one.get("awatch:sum")), len(done), "the sum")


async def script():
    async with client() as one:
        count = one.register_script("redis.call('RPUSH', KEYS[2], ARGV[1]) return redis.call('INCRBY', KEYS[1], ARGV[1])")
        done = []

        async def work():
            if len(done) % 10 == 9:
                await one.script_flush()
            got = await count(keys=["ascript:count", "ascript:list"], args=[2])
            done.append(None)
            equal(got, 2 * len(done), "the script's answer")

        async with working(work) as workers:
            await workers.across_flips(lambda: len(done), 20)
        equal(await one.llen("ascript:list"), len(done), "the list's length")


async def pubsub():
    """Numbered messages: none lost, none doubled, in order."""
    async with client() as one:
        sent, got, by_pattern = [], [], []
        subscription = one.pubsub(ignore_subscribe_messages=False)
        await subscription.subscribe("anews")
        await subscription.psubscribe("anew*")
        for _ in range(2):
            check((await subscription.get_message(timeout=30))["type"] in ("subscribe", "psubscribe"), "the confirmation")

        async def publish():
            equal(await one.publish("anews", len(sent)), 2, "receivers")
            sent.append(len(sent))

        async def listen(timeout=0.05):
            message = await subscription.get_message(timeout=timeout)
            if message:
                (got if message["type"] == "message" else by_pattern).append(int(message["data"]))
            return message

        async with working(publish, listen) as workers:
            await workers.across_flips(lambda: min(len(got), len(by_pattern)), 100)
        while len(got) < len(sent) or len(by_pattern) < len(sent):
            check(await listen(5), "messages were lost:", len(sent), "sent,", len(got), "and", len(by_pattern), "received")
        equal(got, sent, "the messages")
        equal(by_pattern, sent, "the messages by pattern")
        await subscription.aclose()


async def blocking():
    """Eight consumers on one list that are parked when the flip comes: every element once, to one of them."""
    async with client() as one:
        got, sent = [], []

        async def consume():
            popped = await one.blpop(["ablock:none", "ablock:list"], timeout=1)
            if popped:
                got.append(int(popped[1]))

        async def produce():
            if len(sent) - len(got) < 4:
                await one.rpush("ablock:list", len(sent))
                sent.append(len(sent))

        async with working(produce, *[consume] * 8) as workers:
            await workers.across_flips(lambda: len(got), 60)
        in_time = patience("an empty list")
        while await one.llen("ablock:list"):
            in_time()
            await consume()
        equal(sorted(got), sent, "the elements")
        equal(await one.blpop(["ablock:none"], timeout=0.05), None, "BLPOP of nothing")


async def streams():
    """Three consumers of a group: every entry once."""
    async with client() as one:
        sent, read = [], []
        await one.xgroup_create("astream", "group", id="$", mkstream=True)

        def consumer(name):
            async def consume():
                reply = await one.xreadgroup("group", name, {"astream": ">"}, count=5, block=500)
                pages = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply or []]
                for page in pages:
                    for entry, fields in page[0] if isinstance(page[0], list) else page:
                        read.append(int(fields["n"]))
                        equal(await one.xack("astream", "group", entry), 1, "XACK")

            return consume

        async def add():
            if len(sent) - len(read) < 4:
                await one.xadd("astream", {"n": len(sent)})
                sent.append(len(sent))

        async with working(add, consumer("a"), consumer("b"), consumer("c")) as workers:
            await workers.across_flips(lambda: len(read), 40)
        while len(read) < len(sent):
            before = len(read)
            await consumer("a")()
            check(len(read) > before, "the group lost entries:", len(read), "of", len(sent))
        equal(sorted(read), sent, "what the group delivered")
        equal((await one.xpending("astream", "group"))["pending"], 0, "pending entries")


async def scan():
    async with client() as one:
        keys = {f"ascan:{n}" for n in range(600)}
        await one.mset(dict.fromkeys(keys, "x"))
        found, pages = set(), []

        async def iterate():
            async for key in one.scan_iter(match="ascan:*", count=20):
                found.add(key)
                pages.append(None)
            workers.stopped = True

        async with working() as workers:
            walk = asyncio.create_task(iterate())
            workers.tasks.append(walk)
            for _ in range(2):
                # The walk goes on while the harness flips.
                goal = len(pages) + 100
                await workers.until(lambda: len(pages) >= goal or walk.done(), "a hundred keys more")
                await flip()
        check(keys <= found, "SCAN misses", len(keys - found), "of", len(keys))


async def reconnect():
    retry = redis.asyncio.retry.Retry(redis.backoff.ExponentialBackoff(cap=0.1, base=0.01), 20)
    async with client(db=7) as killer, client(db=7, client_name="aphoenix", retry=retry, single_connection_client=True) as one:
        deaths = []

        async def work():
            before = await one.client_id()
            equal(await killer.client_kill_filter(_id=before), 1, "CLIENT KILL")
            await one.set("aphoenix", len(deaths))
            check(await one.client_id() != before, "still the same connection")
            equal((await one.client_getname(), await killer.get("aphoenix")), ("aphoenix", str(len(deaths))), "the name, and the key in database 7")
            deaths.append(None)

        async with working(work) as workers:
            await workers.across_flips(lambda: len(deaths), 5)


async def main():
    for phase in wanted([handshake, pipeline, transaction, watch, script, pubsub, blocking, streams, scan, reconnect]):
        with reported(phase):
            await asyncio.wait_for(phase(), PHASE)


asyncio.run(main())
