# Alerts, and what the fleet does by itself when a machine is under pressure (pillar/beacons.sls says when it is).
alerts:
  # Whose pressure turns the canary off: staging or proxy -> what of cpu and memory. An empty table: nobody's.
  canary_off:
    staging: [cpu, memory]
    proxy: [cpu, memory]

  # Events that one machine may cause something with: so many at once, then so many a minute. More are rejected, written
  # into the journal and raise an alert. What turns the canary off is never rejected for this.
  rate:
    burst: 60
    per_minute: 120

  # Seconds the alert about rejected events stays after the last of them.
  rejected_s: 600
  # Seconds between telling Alertmanager again what fires: an Alertmanager that was away learns of it within this.
  resend_s: 5
  # Seconds Alertmanager believes an alert that it is not told again: how long ops1 may be away with nothing said wrongly.
  believe_s: 3600
  # Seconds an alert that is over is remembered: how long Alertmanager may be away and still mail it.
  keep_s: 86400
