# Every role's numbers go to every machine (none is secret); secrets and addresses come from salt/_pillar/fleet.py.
base:
  '*':
    - common
    - redis
    - traffic
    - canary
    - admin
    - product
    - ops
    - beacons
    - alerts
    - scaling
    - rollout
    - pipeline
  # Read by the master alone.
  master:
    - clouds
