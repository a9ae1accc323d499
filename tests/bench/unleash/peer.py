"""What an evaluation by UnleashClient costs: prints microseconds by flag, and how often it asks its server by default.

    python peer.py EVALUATIONS FOLDER

The client has its flags from a cache and never asks a server.
"""

import inspect
import json
import statistics
import sys
import time

from UnleashClient import UnleashClient
from UnleashClient.cache import FileCache

BATCH = 200
ROLLOUT = {
    "name": "flexibleRollout",
    "parameters": {"rollout": "10", "stickiness": "default", "groupId": "f"},
}
FEATURES = [
    {"name": "static", "enabled": True, "strategies": [{"name": "default", "parameters": {}}]},
    {"name": "fractional", "enabled": True, "strategies": [ROLLOUT]},
]


def cost(client: UnleashClient, key: str, count: int) -> float:
    """The median over batches, in processor time: a busy moment does not count against a peer."""
    visitor = {"userId": "visitor-17"}
    batches = []
    for _ in range(max(count // BATCH, 5)):
        start = time.thread_time_ns()
        for _ in range(BATCH):
            client.is_enabled(key, visitor)
        batches.append((time.thread_time_ns() - start) / BATCH / 1000)
    return round(statistics.median(batches), 3)


def main(count: int, folder: str) -> None:
    """Measure and print one JSON object."""
    cache = FileCache("bench", directory=folder)
    cache.bootstrap_from_dict({"version": 2, "features": FEATURES})
    client = UnleashClient(
        "http://127.0.0.1:9/api", "bench", cache=cache, disable_metrics=True, disable_registration=True
    )
    client.initialize_client(fetch_toggles=False)
    found = {feature["name"]: cost(client, feature["name"], count) for feature in FEATURES}
    client.destroy()
    poll = inspect.signature(UnleashClient).parameters["refresh_interval"].default
    print(json.dumps({"us": found, "poll_s": poll}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
