# ops1: git, and what is built of what is pushed.
pipeline:
  # TCP port of the builds' pages, JSON and artifacts; for the fleet's network only.
  port: 8090
  # Where a branch goes when its build passes: prod (rolling) or canary. Every other branch is built only; a tag is a
  # release that is kept for good.
  branches:
    production: prod
    release: prod
    staging: canary
    dev: canary
  # Who may push: name -> list of ssh public keys. `./saltern clone` has a key of its own besides.
  keys: {}
  # The largest push, MiB.
  push_mib: 50
  # How many artifacts ops1 keeps besides those that run or are tagged, and how many builds it remembers.
  keep: 20
  builds: 200
  # With less free disk than this, MiB, nothing is taken on.
  free_mib: 200
  # What one build may have: memory, MiB; processor, per cent of one; seconds from its begin to its end; processes.
  limits:
    memory_mib: 512
    cpu_percent: 150
    build_s: 600
    tasks: 256
  # How many seconds a pusher is shown a build, and what passed is watched until it serves.
  follow_s: 300
