# Traffic: the proxy, its controller, the canary's split and draining. Every number an operator may change is here.
# Read by salt/proxy; the controller gets `controller`, `canary` and `drain` in its JSON configuration.
traffic:
  # Where the product is served. "*" is every IPv4 address of proxy1.
  listen:
    address: "*"
    port: 80                  # TCP port

  # HAProxy's Prometheus exporter (path /metrics). Nothing administrative is on the public port.
  metrics:
    address: "*"
    port: 8405                # TCP port
    allow: [127.0.0.0/8]      # networks that may read it besides the fleet's own

  # Room for servers in each pool. Changing it reloads HAProxy; filling and emptying slots does not.
  slots:
    prod: 64                  # servers
    canary: 4                 # servers

  balance: roundrobin         # within a pool; leastconn suits requests of very different lengths
  maxconn: 8000               # connections open at once on the clients' side; needs a little over twice as many files
  buffer_bytes: 8192          # bytes: the headers of a request must fit, less 1024; larger is slower
  threads: 0                  # HAProxy threads; 0 is one a core
  log_every_request: false    # true logs successes too; false errors, retries and redispatches only
  forwarded_for: true         # adds X-Forwarded-For for the product's logs

  # Health checks. Defaults notice a machine whose packets are dropped in at most
  # interval + timeout + fast + timeout = 1100 ms; a refused connection takes a server out at once.
  check:
    path: /health             # answers 200 when the instance can serve
    interval_ms: 300          # milliseconds between checks of a healthy server
    fast_ms: 200              # milliseconds between checks once one has failed
    down_ms: 200              # milliseconds between checks of a server that is down
    timeout_ms: 300           # milliseconds a check may take
    rise: 2                   # passed checks in a row before traffic
    fall: 2                   # failed checks in a row before none
    canary_error_limit: 1     # failed connections in a row that take a canary server out
    prod_error_limit: 3       # the same for a production server

  timeout:
    connect_ms: 300           # milliseconds to open a connection to a server
    unacked_ms: 900           # milliseconds sent data may stay unacknowledged (TCP_USER_TIMEOUT)
    client_s: 30              # seconds a client may be silent
    server_s: 30              # seconds a server may take to answer
    tunnel_s: 3600            # seconds a WebSocket may be silent
    queue_s: 5                # seconds a request may wait for a free server
    request_s: 10             # seconds a client may take to send its request's headers
    keepalive_s: 30           # seconds an idle client connection is kept
    reload_s: 120             # seconds the process before a reload may live on for its long requests

  retries: 3                  # further attempts after a failed connection or an empty response

  canary:
    share: 30                 # percent of requests, until canary.share says otherwise
    settle_s: 10              # seconds a canary is healthy before it gets requests (again)
    error_limit_pct: 5        # percent of failed requests that turns the canary off, for good
    error_window_s: 10        # seconds the errors are counted over
    error_min_requests: 50    # requests in that window before the limit counts
    override: true            # header X-Saltern-Canary / cookie saltern-canary: always|never, for testers
    sticky: false             # true: a visitor stays with one pool, by cookie
    sticky_s: 86400           # seconds that cookie lives

  drain:
    limit_s: 60               # seconds open requests may take before they are cut

  controller:
    poll_ms: 300              # milliseconds between two looks at HAProxy's statistics
    resync_s: 2               # seconds between full reads of the registry, noticed or not

  # Paths, the same on every proxy.
  admin_socket: /run/haproxy/admin.sock
  state_dir: /var/lib/saltern/traffic     # maps and servers.state: what HAProxy starts from
  unavailable_page: /etc/haproxy/errors/saltern-503.http
  user: haproxy
  group: haproxy
  chroot: /var/lib/haproxy    # "" for none
