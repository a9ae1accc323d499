# The product on prod* and staging*.
product:
  # TCP port it serves HTTP on.
  port: 8080
  # Requests one machine works on at once.
  threads: 8
  # Seconds a stopping product may take to end the requests it has.
  graceful_seconds: 20
