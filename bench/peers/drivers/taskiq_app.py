"""The taskiq broker and its tasks; the server comes from the environment."""

from __future__ import annotations

import os

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.peers import work

SERVER = "BENCH_PEERS_SERVER"

backend = RedisAsyncResultBackend(redis_url=os.environ[SERVER])
broker = RedisStreamBroker(url=os.environ[SERVER]).with_result_backend(backend)
tasks = {name: broker.register_task(function, task_name=name) for name, function in work.FUNCTIONS.items()}
