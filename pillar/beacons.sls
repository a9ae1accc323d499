beacons:
  cpu:
  - high: 100
  - for: 3600
  - roles:
      prod:
        high: 50
        low: 45
        for: 2
        clear: 2
        refresh: 2
        calm: 2
        waiting: true
        ignore:
        - salt-minion
  memory:
  - high: 100
  - for: 3600
  samples:
  - service: product
  - batch: 10
  build:
  - outbox: /var/lib/saltern-pipeline/outbox
  - again: 10
