"""RQ: `produce`, `work` (a SimpleWorker with its scheduler), `check`. See tests/clients/src/bin/jobs.rs."""

import logging
import os
import signal
import sys
import threading
import time
from datetime import timedelta

from redis import Redis
from rq import Queue, Retry, SimpleWorker
from rq.registry import DeferredJobRegistry, FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from common import HOST, PASSWORD, PORT, equal, patience, say
from ledger import JOBS, is_delayed, is_retried, record

# A failed attempt is an error in its log, and part of the plan here.
logging.getLogger("rq.worker").setLevel(logging.CRITICAL)


def connect():
    return Redis(host=HOST, port=PORT, password=PASSWORD)


def job(number):
    record(number)
    return number


def produce():
    queue = Queue("rq", connection=connect())
    for number in range(JOBS):
        options = {"result_ttl": 3600, "ttl": None}
        if is_retried(number):
            options["retry"] = Retry(max=3)
        if is_delayed(number):
            queue.enqueue_in(timedelta(seconds=1), "rq_jobs.job", number, **options)
        else:
            queue.enqueue("rq_jobs.job", number, **options)
    say("produced")


def work():
    # A worker takes signals in its main thread only; the harness speaks to another one.
    worker = SimpleWorker([Queue("rq", connection=connect())], connection=connect(), job_monitoring_interval=5)

    def listen():
        # Not through sys.stdin, whose lock a forked scheduler would wait for.
        os.read(0, 1)
        # The last jobs say that they ran before their workers have put them among the finished ones, and a signal in between interrupts that.
        in_time, started = patience("the last jobs to be finished"), StartedJobRegistry(queue=Queue("rq", connection=connect()))
        while len(started) > 0:
            in_time()
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    say("ready")
    worker.work(with_scheduler=True, logging_level=logging.CRITICAL)
    say("stopped")


def check_leftovers():
    connection = connect()
    queue = Queue("rq", connection=connection)
    registries = (FailedJobRegistry, StartedJobRegistry, DeferredJobRegistry, ScheduledJobRegistry)
    equal({kind.__name__: len(kind(queue=queue)) for kind in registries}, {kind.__name__: 0 for kind in registries}, "what is left over")
    equal(len(queue), 0, "the queue's length")
    finished = FinishedJobRegistry(queue=queue).get_job_ids()
    equal((len(finished), len(set(finished))), (JOBS, JOBS), "the finished jobs")
    sample = queue.fetch_job(finished[-1])
    equal(sample.return_value(), sample.args[0], "a job's result")
    say("checked")


if __name__ == "__main__":
    {"produce": produce, "work": work, "check": check_leftovers}[sys.argv[1]]()
