# The admin API on proxy1. Its tokens are secrets: made at the first `up`, in the fleet's secrets.json.
admin:
  # Where it listens: "*" is every IPv4 address of proxy1; TCP port.
  address: "*"
  port: 8081
  # Requests it works on at once.
  threads: 8
  # Seconds a client may take from the first byte of its request to the last of its answer.
  request_s: 10
  # Largest body of a request, KiB.
  body_kib: 64
  # Seconds to wait for Redis. What turns the canary off goes on without Redis after this.
  redis_timeout_s: 0.5
  # How often: so many at once (burst), then so many a minute. Beyond it the answer is 429 with Retry-After.
  rate:
    # For each token and address; without a token for each address.
    normal:
      per_minute: 240
      burst: 60
    # The same for what turns the canary off: nothing else uses this up.
    safe:
      per_minute: 240
      burst: 60
    # Wrong tokens, for each address.
    failed:
      per_minute: 20
      burst: 10
  # Networks besides the fleet's own that may read /metrics without a token.
  metrics_allow: [127.0.0.0/8]
