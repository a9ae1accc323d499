# Redis: the fleet's memory. One machine is primary, the others are read-only replicas of it.
redis:
  # The machine that is primary when the fleet is made. With three Redis machines or more Sentinel decides from then on.
  primary: redis1
  # TCP port.
  port: 6379
  # Memory for data, MiB. Past it writes are refused, nothing is evicted: this is the fleet's memory, not a cache.
  maxmemory_mib: 128
  # When the append-only file reaches the disk: always, everysec (at most 1 s of writes lost with the machine), no.
  appendfsync: everysec
  # A primary that Sentinel watches refuses writes when no replica has confirmed anything for so many seconds: it may be
  # cut off, and another elected in its place. Lower loses less, and refuses sooner when machines are merely slow.
  max_lag_s: 3
  sentinel:
    # TCP port.
    port: 26379
    # Milliseconds without an answer after which a Sentinel holds Redis to be gone; two of three must agree.
    down_after_ms: 1000
    # Milliseconds an election may take; twice that passes before the next try.
    failover_timeout_ms: 6000
  # Whether everything said to and between Redis and Sentinel is encrypted (their ports then speak TLS only). After a
  # change: salt '*' state.apply, and every client reconnects.
  tls: false
  backup:
    # Hours between two copies of the data that each replica writes to its own disk, 1 to 24.
    every_h: 1
    # Copies kept on each machine.
    keep: 24
