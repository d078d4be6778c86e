"use strict";
// The conversation with the harness (tests/clients/src/bin/clients.rs), and what every JavaScript program needs.
//
// A phase is an async function. It does its work in loops of their own, asks for a flip when that work has come some way (a
// count, never a time), goes on meanwhile, asks for the flip back, goes on, and then checks everything it got.

const readline = require("node:readline");
const { isDeepStrictEqual, inspect } = require("node:util");

const { HOST: host, PORT, PASSWORD: password } = process.env;
const port = Number(PORT);
const protocol = Number(process.env.PROTOCOL || 2);
// Longest wait for a condition, on a machine that others use too.
const PATIENCE_MS = 30_000;
// And for a whole phase, less than the harness waits for a word.
const PHASE_MS = 80_000;

const say = (line) => process.stdout.write(line + "\n");

const answers = [];
const input = readline.createInterface({ input: process.stdin });
input.on("line", (line) => answers.shift()?.(line));

/// The primary role moves to the other side; resolves when it has.
function flip() {
  const answer = new Promise((resolve) => answers.push(resolve));
  say("flip");
  return answer;
}

function check(condition, ...what) {
  if (!condition) throw new Error(what.map((part) => (typeof part === "string" ? part : inspect(part))).join(" "));
}

function equal(got, want, what) {
  check(isDeepStrictEqual(got, want), what, "is", inspect(got).slice(0, 400), "and should be", inspect(want).slice(0, 400));
}

/// The promise, or an error that says what did not happen in time.
function within(limitMs, promise, what) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(what)), limitMs)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const breath = (ms = 0) => new Promise((resolve) => setTimeout(resolve, ms));

/// Asks again and again until the condition holds; the error says for what it waited. `look` may throw what ends the wait.
async function until(condition, what, look = () => {}) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    look();
    check(Date.now() < deadline, "waited", PATIENCE_MS, "ms for", what);
    await breath(2);
  }
}

class Workers {
  stopped = false;
  error = null;

  constructor(functions) {
    this.loops = functions.map((work) => this.loop(work));
  }

  async loop(work) {
    try {
      while (!this.stopped) {
        await work();
        await breath();
      }
    } catch (error) {
      this.error ??= error;
    }
  }

  until(condition, what) {
    return until(condition, what, () => {
      if (this.error) throw this.error;
    });
  }

  /// Two flips, each behind `step` more of what `progress` counts; and as much again behind the last.
  async acrossFlips(progress, step) {
    for (const ask of [flip, flip, async () => {}]) {
      const goal = progress() + step;
      await this.until(() => progress() >= goal, `${step} more of the work`);
      await ask();
    }
  }

  async stop() {
    this.stopped = true;
    await within(PATIENCE_MS, Promise.all(this.loops), "the work does not end");
    if (this.error) throw this.error;
  }
}

/// Calls every function again and again while `body` runs. An error in one of them is the phase's error.
async function working(functions, body) {
  const workers = new Workers(functions);
  try {
    await body(workers);
    await workers.stop();
  } finally {
    workers.stopped = true;
  }
}

/// Every phase in turn; the next one is tried when one fails.
async function run(phases) {
  const leaveOut = (process.env.LEAVE_OUT || "").split(",");
  for (const phase of phases) {
    const name = phase.name;
    if (process.env.ONLY && process.env.ONLY !== name) continue;
    if (leaveOut.includes(name)) {
      say(`left-out ${name}`);
      continue;
    }
    say(`phase ${name}`);
    try {
      await within(PHASE_MS, phase(), "the phase does not end");
      say(`pass ${name}`);
    } catch (error) {
      say(`fail ${name}: ${(error.stack || inspect(error)).replaceAll("\n", "\\n")}`);
    }
  }
  say("done");
  input.close();
  process.stdout.write("", () => process.exit(0));
}

/// The phase with its connections closed behind it.
const closing = (close) => (phase) => {
  const closed = async () => {
    try {
      await phase();
    } finally {
      close();
    }
  };
  return Object.defineProperty(closed, "name", { value: phase.name });
};

/// A consumer that parks every time: one element more only when the one before has been taken. In the end every element came once, in order.
/// `push(n)` sends an element, `take()` waits for one and returns it, or null.
async function oneByOne(push, take, step) {
  const got = [];
  let sent = 0;
  const consume = async () => {
    const taken = await take();
    if (taken !== null) got.push(Number(taken));
  };
  const produce = async () => {
    if (got.length === sent) await push(sent++);
  };
  await working([consume, produce], (w) => w.acrossFlips(() => got.length, step));
  await until(async () => {
    if (got.length < sent) await consume();
    return got.length >= sent;
  }, "the last element");
  equal(got, range(0, sent), "the elements");
}

/// Reads on until so much has come; a read that brings nothing says that the rest is lost.
async function readOn(read, list, goal, what) {
  while (list.length < goal) {
    const before = list.length;
    await read();
    check(list.length > before, what, "lost entries:", list.length, "of", goal);
  }
}

const range = (from, to) => Array.from({ length: to - from }, (_, n) => from + n);

module.exports = { host, port, password, protocol, say, flip, check, equal, breath, until, working, oneByOne, readOn, run, closing, range };
