# What machines feel: Salt's own key `beacons`, read by the minions; beacons/cpu.py and beacons/memory.py say what happens.
# A machine looks once a second. `roles` overrides any number for the machines of a role.
beacons:

  cpu:
    # Per cent of what the machine's limit allows: high from here on ...
    - high: 50
    # ... and over below this.
    - low: 40
    # Samples in a row at or above high before it is said. 2 is about two seconds.
    - for: 2
    # Samples in a row below low before it is over.
    - clear: 5
    # Seconds between saying again that it is still high, so that a lost event is made up for.
    - refresh: 30
    # Seconds between saying how it is while all is well: what scaling in and giving back memory are decided on.
    - calm: 60
    # systemd services whose use does not count. Salt's own: a state that is being applied is no overload.
    - ignore: [salt-minion]
    # Whether it counts as use, too, that services wait for a processor that the limit allows and the host does not give:
    # on a host that promised more than it has, a busy machine uses little. A machine that is no container has no such.
    # For production, which can grow; that the host is busy is no reason to turn the canary off.
    - waiting: false
    - roles:
        prod: {waiting: true}
        # A build may take all of it for as long as its time limit lets it (pipeline:limits).
        ops: {for: 600}

  memory:
    # Per cent of the machine's limit; file cache that can be dropped is not counted.
    - high: 50
    - low: 45
    - for: 2
    - clear: 5
    - refresh: 30
    - calm: 60
    - roles:
        # A build may take what its own limit lets it: high is what comes near the end of the machine.
        ops: {high: 90, low: 80}

  # What the product uses of every machine it runs on, for the judge of the canary: no threshold, and nothing reacts to it.
  samples:
    # The systemd service that is looked at. A machine that does not run it says nothing.
    - service: product
    # Samples, one a second, that are told at once: so many seconds after it the judge knows of one.
    - batch: 10

  # What ops1 builds: no threshold; the folder its worker leaves its words in, and how many seconds until they are said
  # again when the master has not written them down.
  build:
    - outbox: /var/lib/saltern-pipeline/outbox
    - again: 10
