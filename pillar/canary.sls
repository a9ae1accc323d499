# When a canary is good enough. Every number the judge and the progressive steps use, with its unit.
# The values below are the defaults: a key left out keeps the value written here.
# To try other values on traffic that was recorded: python -m saltern.judge FILE --set tolerance=1.2
canary:

  judge:
    # How much must be seen ---------------------------------------------------------------------------------------
    # Requests in each of the two windows. Fewer and the judge holds.
    min_requests: 500
    # Samples (one a second) of the product's cpu and memory from every canary machine and from production altogether;
    # also latencies, where they are recorded per second. Below about 20 chance decides.
    min_samples: 20
    # Independent samples those must be worth on each side before they are tested at all (samples of neighbouring
    # seconds resemble each other). Below this a difference within the tolerance passes and a larger one holds.
    min_independent: 5.0

    # Hard limits: the canary fails beyond them, whatever production does --------------------------------------------
    # Failed requests, per cent of all. Set it above what your product shows on a normal day.
    error_limit_percent: 1.0
    # Before the window is full: fail once a canary exactly at the limit would look this bad with at most this
    # probability. 0.001 is once in a thousand. 0 switches the early alarm off.
    error_early_alarm: 0.001
    # Latency in milliseconds that latency_percentile per cent of the requests must stay within.
    latency_limit_ms: 1000.0
    latency_percentile: 95.0
    # CPU and memory of the product, per cent of the machine's own limit: more than half of the window above it is
    # saturation.
    cpu_limit_percent: 90.0
    memory_limit_percent: 90.0

    # Against production ----------------------------------------------------------------------------------------------
    # Smallest ratio canary / production worth acting on: 1.1 is ten per cent worse. At 1.0 a steady difference of
    # one per cent fails every long window.
    tolerance: 1.1
    # Smallest differences worth acting on, in the metric's unit: so that 1 % CPU against 2 % is not "twice as much".
    error_min_points: 0.1     # percentage points
    latency_min_ms: 1.0       # milliseconds
    host_min_points: 2.0      # percentage points of cpu or memory
    # Probability that a judgement fails a canary that is exactly like production, over all metrics together.
    false_alarm: 0.01
    # A difference beyond the tolerance with a p-value up to this holds: suspicious, another window decides. Not below
    # false_alarm.
    suspicion: 0.05

  # `salt-run canary.start` takes the release that staging runs through these shares.
  steps:
    # Shares of the traffic, in per cent, one after the other. They rise and end at 100.
    shares: [5, 10, 30, 60, 100]
    # Shortest time at each share, in seconds. Five minutes give cpu samples enough independent ones. The hard limits are
    # looked at all the time; the comparison with production is made when this time is over and, while the judge holds,
    # again after each fifth of it.
    step_seconds: 300
    # How long after that the judge may hold, or say nothing, before a person is asked, in seconds.
    hold_seconds: 900
    # Shares a person must agree to before they are taken, for example [60, 100]. Empty: time and the judge decide alone.
    pause_before: []
    # Whether a release begins by itself as soon as staging runs it and production does not. Off, because it takes the
    # share out of your hands: whatever share you set falls to the first of `shares` at every deployment, and where too few
    # requests come for the judge you are asked at every one. On suits a fleet whose traffic fills a window in a step.
    auto: false
