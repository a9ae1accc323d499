"""How gunicorn serves the product in the flags' bench: as on a machine, and each worker says when it has seen a flip.

The moment is taken in the thread that follows the flags, once the new set is in force and the OpenFeature client has
answered from it.
"""

import os
import socket
import time
from typing import Any

from openfeature import api
from openfeature.event import ProviderEvent
from openfeature_redis import RedisProvider
from product import flags
from product.gunicorn_conf import *  # noqa: F403

FLAG, DOMAIN = "site_title", "product"


class Noting(RedisProvider):
    """Tells the bench the value and the moment (nanoseconds, monotonic) of every change."""

    def _emit(self, event: ProviderEvent, **details: Any) -> None:
        if event is ProviderEvent.PROVIDER_CONFIGURATION_CHANGED:
            value = api.get_client(DOMAIN).get_string_value(FLAG, "")
            moment = time.monotonic_ns()
            bench.sendto(
                f"{moment} {os.environ['PRODUCT_BIND']} {value}".encode(), os.environ["BENCH_SOCKET"]
            )
        super()._emit(event, **details)


bench = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
flags.RedisProvider = Noting
