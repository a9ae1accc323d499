# How a release, or any other change, goes over machines one after the other (salt-run rollout.start).
# Where a value is "a number or per cent", 2 is two machines and 40% is two of five, rounded down, never less than one.
rollout:

  # Machines that are worked on at once: a number or per cent.
  batch: 1
  # Machines of a pool that may be out of traffic at once, whoever took them out: a number or per cent.
  max_unavailable: 1
  # Which goes first: load, the one with the fewest requests open; id, the one with the lowest number.
  order: load
  # A machine that fails goes back to its old release in any case. back: those that are done go back too, the last one
  # first. stop: they keep the new one, for a person to decide.
  on_failure: back
  # Whether machines are in their highstate after a new release. true: before one is taken it is asked what
  # else would change (state.apply test=True); of whom nothing would is only switched to the release, which is all that
  # its highstate would do, and any other applies the whole. false: the release is switched to, and nobody is asked.
  highstate: true
  # How many of the releases that a pool ran stay on the disks of machines, to go back to at once, besides those that run
  # or shall and those of tags. Older ones go when a new one comes.
  keep: 5

  # Seconds a machine must have answered well through the proxy, without a break, before the next is taken.
  min_healthy_s: 2
  # Seconds all of them must have done so after the last one, before it counts as done: what dies young dies here.
  steady_s: 5
  # Seconds the requests a machine has may take before they are cut.
  drain_s: 30
  # Seconds a machine may take to apply its states; what is not done by then is ended.
  apply_s: 90
  # Seconds the product may take to answer once they are applied, and again to be healthy as the proxy sees it.
  serve_s: 30
  # Seconds the whole may take until the last machine is taken.
  deadline_s: 900

  # What is looked at before each machine. salt-run rollout.start gates=False does without.
  gates:
    # Alerts that nothing is rolled under, by name (salt-run alert.list shows them).
    alerts: [MachineLost, MemoryHigh]
    # Machines of which they count, by role, besides those that are rolled over. Not ops: what it builds takes its memory.
    roles: [proxy, redis, prod, staging]
    # Seconds to wait for these to be over, and for machines that others took out to be back.
    wait_s: 30
    # Per cent of the requests to the pool, since the roll began, that may have been answered with 5xx ...
    errors_percent: 1.0
    # ... and how many of those always may.
    errors_min: 5

  # When nothing new is rolled, in UTC; force=True does all the same, and going back always may. What is under way when
  # one begins takes no further machine: it stops there, and on_failure says what becomes of those that are done. Each has
  # a reason, and any of these, all of which must hold:
  #   days: [sat, sun]             days of the week
  #   hours: ["22:00", "06:00"]    from, to; a night belongs to the day on which it began
  #   dates: ["2026-12-23", "2027-01-02"]    first and last day
  freeze: []

  # Going back to a release (salt-run rollout.rollback). It is on the disks, so it is fast: only the product is switched.
  rollback:
    batch: 40%
    max_unavailable: 40%
    min_healthy_s: 0.5
    steady_s: 0.5

  # Where a machine's product says which release it is (JSON, "release", and when it "started", if it can: a product
  # that dies and is started again is found out by that), and where that it is well (status 200).
  version_path: /version
  health_path: /health
