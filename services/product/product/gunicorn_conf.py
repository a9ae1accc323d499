"""How gunicorn serves the product: one worker process of several threads, a graceful stop, no surprises.

Changed by the environment: PRODUCT_BIND, PRODUCT_THREADS, PRODUCT_GRACEFUL_SECONDS, PRODUCT_ACCESS_LOG=1.
"""

import os

from product.config import ConfigError, load

# Before gunicorn does or says anything: one line and an exit code, not a worker that dies at every try.
try:
    settings = load()
except ConfigError as error:
    raise SystemExit(f"product: {error}") from error

bind = os.environ.get("PRODUCT_BIND", "0.0.0.0:8080")

# One process a machine: the fleet scales by machines. Threads wait for Redis, so a few more than cores.
workers = 1
threads = settings.threads
worker_class = "product.worker.DrainingThreadWorker"

# HAProxy drops idle connections to a server soon after it needs them (pool-purge-delay, 5 s by default) and
# must always be the side that closes: far longer here. Seconds.
keepalive = 75

# After SIGTERM: requests under way may take this long, then the process ends whatever they do. Seconds.
graceful_timeout = int(os.environ.get("PRODUCT_GRACEFUL_SECONDS", "20"))
timeout = 30

# The worker's heartbeat file; on a disk, a stalled write would look like a dead worker.
worker_tmp_dir = "/dev/shm"

# HAProxy logs requests. Here, when asked: status, microseconds, request line.
accesslog = "-" if os.environ.get("PRODUCT_ACCESS_LOG") == "1" else None
access_log_format = '%(s)s %(D)sus "%(r)s"'
errorlog = "-"

# The application starts threads, which do not survive a fork: it is made in the worker, never before.
preload_app = False

# Nobody talks to gunicorn's control socket here; without it the master needs no thread of its own.
control_socket_disable = True

# Only plain HTTP/1.1 from the proxy, at a title's length.
limit_request_line = 2048
limit_request_fields = 64
