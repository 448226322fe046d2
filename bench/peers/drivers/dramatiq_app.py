"""The dramatiq broker and its actors; the server comes from the environment."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers import work

SERVER = "BENCH_PEERS_SERVER"

broker = RedisBroker(url=os.environ[SERVER])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ[SERVER])))
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)
actors = {
    name: dramatiq.actor(function, actor_name=name, store_results=True, max_retries=0)
    for name, function in work.FUNCTIONS.items()
}
