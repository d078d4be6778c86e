"""Celery with kombu's Redis transport and the Redis result backend: `produce`, `work`, `check`. See
tests/clients/src/bin/jobs.rs."""

import os
import signal
import sys
import threading
from urllib.parse import quote

from celery import Celery
from celery.signals import worker_ready, worker_shutdown

from common import HOST, PASSWORD, PORT, equal, say
from ledger import JOBS, FirstAttempt, is_delayed, is_retried, record

URL = f"redis://:{quote(PASSWORD)}@{HOST}:{PORT}"
app = Celery("jobs", broker=URL + "/0", backend=URL + "/1")
app.conf.update(task_default_queue="celery-jobs", worker_prefetch_multiplier=16, worker_hijack_root_logger=False, worker_redirect_stdouts=False,
                broker_connection_retry_on_startup=True, result_expires=3600)


@app.task(bind=True, max_retries=3, name="job")
def job(self, number):
    try:
        record(number)
    except FirstAttempt as error:
        raise self.retry(exc=error, countdown=0.2)
    return number


def produce():
    for number in range(JOBS):
        job.apply_async((number,), task_id=f"job-{number}", countdown=1 if is_delayed(number) else None)
    say("produced")


def work():
    def listen():
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    worker_ready.connect(lambda **_: say("ready"), weak=False)
    worker_shutdown.connect(lambda **_: say("stopped"), weak=False)
    app.worker_main(["worker", "--pool=solo", "--loglevel=WARNING", f"--hostname={sys.argv[2]}@%h"])


def check_leftovers():
    results = [app.AsyncResult(f"job-{number}") for number in range(JOBS)]
    wrong = [(result.id, result.state) for number, result in enumerate(results) if (result.state, result.result) != ("SUCCESS", number)]
    equal(wrong, [], "results that are not there")
    with app.connection_for_read() as connection:
        client = connection.channel().client
        left = {name: client.type(name) for name in ("celery-jobs", "unacked", "unacked_index")}
        equal(left, {name: b"none" for name in left}, "what is left over")
    say("checked")


if __name__ == "__main__":
    {"produce": produce, "work": work, "check": check_leftovers}[sys.argv[1]]()
