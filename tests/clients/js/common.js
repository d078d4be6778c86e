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

  async until(condition, what) {
    const deadline = Date.now() + PATIENCE_MS;
    while (!(await condition())) {
      if (this.error) throw this.error;
      check(Date.now() < deadline, "waited", PATIENCE_MS, "ms for", what);
      await breath(2);
    }
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

const range = (from, to) => Array.from({ length: to - from }, (_, n) => from + n);

module.exports = { host, port, password, protocol, say, flip, check, equal, breath, working, run, range };
