"""What every job does: it writes itself down on a server that is not behind the proxy."""

import os

from redis import Redis

JOBS = int(os.environ["JOBS"])
LEDGER = Redis(host="127.0.0.1", port=int(os.environ["LEDGER"]))


def is_retried(number):
    """Fails at its first attempt."""
    return number % 20 == 7


def is_delayed(number):
    return number % 20 == 13


class FirstAttempt(Exception):
    """The failure that the library must answer with one more attempt."""


def record(number):
    """One attempt of a job; the first of those that are to be retried fails."""
    attempt = LEDGER.hincrby("attempts", number, 1)
    if is_retried(number) and attempt == 1:
        raise FirstAttempt(number)
    LEDGER.pipeline().hincrby("runs", number, 1).incr("done").execute()
