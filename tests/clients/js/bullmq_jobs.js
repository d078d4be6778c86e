"use strict";
// BullMQ: `produce`, `work`, `check`. See tests/clients/src/bin/jobs.rs.

const { Queue, QueueEvents, Worker } = require("bullmq");
const { Redis } = require("ioredis");
const { host, port, password, say, equal } = require("./common.js");

const jobs = Number(process.env.JOBS);
const connection = { host, port, password, maxRetriesPerRequest: null };
const isRetried = (number) => number % 20 === 7;
const isDelayed = (number) => number % 20 === 13;

async function produce() {
  const queue = new Queue("bull", { connection });
  const options = (number) => ({
    jobId: `job-${number}`,
    delay: isDelayed(number) ? 500 : undefined,
    attempts: isRetried(number) ? 3 : 1,
    backoff: { type: "fixed", delay: 100 },
    priority: number % 20 === 3 ? 5 : undefined,
  });
  for (let first = 0; first < jobs; first += 20) {
    const batch = Array.from({ length: Math.min(20, jobs - first) }, (_, n) => first + n);
    // Half of them in one transaction, half one by one.
    if (first % 40 === 0) await queue.addBulk(batch.map((number) => ({ name: "job", data: { number }, opts: options(number) })));
    else for (const number of batch) await queue.add("job", { number }, options(number));
  }
  say("produced");
  await queue.close();
}

async function work() {
  const ledger = new Redis({ host: "127.0.0.1", port: Number(process.env.LEDGER) });
  const record = async ({ data: { number } }) => {
    const attempt = await ledger.hincrby("attempts", number, 1);
    if (isRetried(number) && attempt === 1) throw new Error("the first attempt");
    await ledger.pipeline().hincrby("runs", number, 1).incr("done").exec();
    return number;
  };
  const worker = new Worker("bull", record, { connection, concurrency: 10 });
  const events = new QueueEvents("bull", { connection });
  worker.on("error", (error) => say(`worker error: ${error.message}`));
  events.on("error", (error) => say(`events error: ${error.message}`));
  await Promise.all([worker.waitUntilReady(), events.waitUntilReady()]);
  say("ready");
  process.stdin.once("data", async () => {
    await worker.close();
    await events.close();
    say("stopped");
    process.exit(0);
  });
}

async function check() {
  const queue = new Queue("bull", { connection });
  const counts = await queue.getJobCounts();
  equal(counts.completed, jobs, `completed of ${JSON.stringify(counts)}`);
  equal({ ...counts, completed: 0 }, Object.fromEntries(Object.keys(counts).map((state) => [state, 0])), "what is left over");
  for (const number of [0, 7, 13, jobs - 1]) equal((await queue.getJob(`job-${number}`)).returnvalue, number, `the result of job ${number}`);
  say("checked");
  await queue.close();
}

({ produce, work, check })[process.argv[2]]().catch((error) => {
  console.error(error);
  process.exit(1);
}).then(() => process.argv[2] === "work" || process.exit(0));
