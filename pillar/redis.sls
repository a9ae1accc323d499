# Redis: redis1 is the primary, the others are read-only replicas of it.
redis:
  # The machine that is primary when the fleet is made.
  primary: redis1
  # TCP port.
  port: 6379
  # Memory for data, MiB. Past it writes are refused, nothing is evicted: this is the fleet's memory, not a cache.
  maxmemory_mib: 128
  # When the append-only file reaches the disk: always, everysec (at most 1 s of writes lost with the machine), no.
  appendfsync: everysec
