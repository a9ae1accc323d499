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
  # How many artifacts ops1 and the master keep besides those that run or are tagged (the master also has what pools ran
  # lately, see rollout:keep), and how many builds ops1 remembers.
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
  # A bucket that keeps every artifact besides, at S3 or what speaks as it does, for when the disks are lost; what is in
  # it is left to rules of its own. It needs boto3 (requirements/bucket.txt) on the master's host.
  bucket:
    # Its name; "" is none. The prefix is put before each artifact's name, such as saltern/
    name: ""
    prefix: ""
    # Such as https://s3.example.org and eu-central-1; "" as boto3 finds them.
    endpoint: ""
    region: ""
    # Which of the profiles in ~/.aws/credentials of the master's host; "" as boto3 finds credentials.
    profile: ""
  # How many seconds a pusher is shown a build, and what passed is watched until it serves.
  follow_s: 300
