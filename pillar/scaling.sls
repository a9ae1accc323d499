# How the fleet changes its own size: machines a pool, memory a machine, and machines that are lost.
scaling:

  # Pools: prod, canary. One that is not named here is scaled by hand alone (salt-run scale.out, scale.in), 1 to 100.
  pools:
    prod:
      # Whether it is scaled by itself. By hand it can be scaled in any case.
      auto: true
      # Machines. Scaling in leaves at least min, scaling out makes at most max; a fleet made smaller than min stays so.
      min: 5
      max: 10
      # What is aimed at, in per cent: the mean of cpu (and memory, if named) over the pool's machines; proxy_cpu is the
      # busiest proxy's. Any may scale out, all must agree to scale in. More than a tenth below the beacons' `high`
      # (pillar/beacons.sls), or reaching that would be within the tolerance.
      targets:
        cpu: 45
        proxy_cpu: 45
      # A ratio of use to target this near to 1 changes nothing.
      tolerance: 0.1
      # Seconds from being made until a machine's use counts: it is busy with becoming what it is.
      warmup_s: 30
      out:
        # Seconds for which all decisions must have agreed; 0 is at once.
        window_s: 0
        # Seconds after scaling out before it is done again.
        cooldown_s: 30
        # At most this much in a period, machines or percent of the pool; of several the most generous counts.
        steps:
          - {machines: 2, period_s: 60}
          - {percent: 50, period_s: 60}
      in:
        window_s: 300
        # Seconds after any change.
        cooldown_s: 120
        steps:
          - {machines: 1, period_s: 60}
      # Seconds without scaling out after machines could not be made: doubles each time, up to the most.
      backoff_s: 60
      backoff_max_s: 3600

  # A machine that feels memory as high (pillar/beacons.sls) gets twice as much, and gives it back when low for long.
  memory:
    auto: true
    # Roles whose machines may grow.
    roles: [prod, staging]
    # MiB; no machine grows beyond it.
    max_mib: 1536
    # Seconds between two doublings.
    cooldown_s: 60
    # Shrinking must leave the use at or below this per cent of what remains, and it must have been low for so long, s.
    low_percent: 40
    low_s: 1800

  # Machines of a pool that HAProxy cannot reach and whose minion does not answer are replaced, one at a time.
  healing:
    auto: true
    # Seconds both must have said so. A reboot takes less.
    grace_s: 20
    # Seconds after a replacement in which the same machine is not replaced again: something else is wrong.
    flap_s: 1800
    # With more than this per cent of a pool gone nothing is replaced: the fault is likely on our side. One always may be.
    most_percent: 55

  # How what takes long is carried out.
  conductor:
    # Seconds for a new machine to serve; and until one that has not registered is told to apply its states.
    serve_s: 180
    configure_s: 60
    # Seconds the requests of a machine that is given up may take.
    drain_s: 60
    # Seconds after which a machine that felt high and says nothing more counts as unknown. Three times the beacons' refresh.
    stale_s: 90
    # Attempts before an intent is given up, and seconds before the second; they double, up to the most.
    attempts: 5
    retry_s: 5
    retry_max_s: 300
