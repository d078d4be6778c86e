"""The conversation with the harness (tests/clients/src/bin/clients.rs), and what every Python program needs.

A phase is a function. It does its work in other threads, asks for a flip when that work has come some way (a count, never
a time), goes on, asks for the flip back, goes on, and then checks everything it got.
"""

import os
import sys
import threading
import time
import traceback
from contextlib import contextmanager

HOST, PORT, PASSWORD = os.environ["HOST"], int(os.environ["PORT"]), os.environ["PASSWORD"]
PROTOCOL = int(os.environ.get("PROTOCOL", "2"))
# Longest wait for a condition, on a machine that others use too.
PATIENCE = 30
# And for a whole phase, less than the harness waits for a word.
PHASE = 80


def say(line):
    print(line, flush=True)


def flip():
    """The primary role moves to the other side; returns when it has."""
    say("flip")
    answer = sys.stdin.readline()
    assert answer, "the harness has gone"


def check(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(part) for part in what))


def equal(got, want, what):
    check(got == want, what, "is", repr(got)[:400], "and should be", repr(want)[:400])


def leave_out(name):
    """Whether this phase is not to be run, which is said."""
    if os.environ.get("ONLY", name) != name:
        return True
    if name in os.environ.get("LEAVE_OUT", "").split(","):
        say(f"left-out {name}")
        return True
    return False


@contextmanager
def reported(phase):
    """Says that a phase begins, and how it ends; its error ends nothing else."""
    name = phase.__name__
    say(f"phase {name}")
    try:
        yield
    except Exception:
        say(f"fail {name}: " + traceback.format_exc().strip().replace("\n", "\\n"))
    else:
        say(f"pass {name}")


def wanted(phases):
    """Those that are not left out, and behind the last one the end."""
    yield from (phase for phase in phases if not leave_out(phase.__name__))
    say("done")


def run(phases):
    """Every phase in turn; the next one is tried when one fails."""
    for phase in wanted(phases):
        with reported(phase):
            phase()


def patience(what):
    """Begins to wait for something: what it returns is called before each look, and fails when that is too late."""
    deadline = time.monotonic() + PATIENCE
    return lambda: check(time.monotonic() < deadline, "waited", PATIENCE, "s for", what)


class Workers:
    """Functions that are called again and again in threads of their own. An error in one is the phase's error."""

    def __init__(self, functions):
        self.stopped, self.errors = threading.Event(), []
        self.threads = [threading.Thread(target=self.work, args=(function,), daemon=True) for function in functions]
        for thread in self.threads:
            thread.start()

    def work(self, function):
        try:
            while not self.stopped.is_set():
                function()
        except Exception as error:
            self.errors.append(error)

    def raise_error(self):
        if self.errors:
            raise self.errors[0]

    def until(self, condition, what):
        """Waits for a condition; says for what it waited."""
        in_time = patience(what)
        while not condition():
            self.raise_error()
            in_time()
            time.sleep(0.002)

    def across_flips(self, progress, step):
        """Two flips, each behind `step` more of what `progress` counts; and as much again behind the last."""
        for ask in (flip, flip, lambda: None):
            goal = progress() + step
            self.until(lambda: progress() >= goal, f"{step} more of the work, {progress()} done")
            ask()

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        self.raise_error()


@contextmanager
def working(*functions):
    workers = Workers(functions)
    try:
        yield workers
        workers.stop()
    finally:
        workers.stopped.set()
