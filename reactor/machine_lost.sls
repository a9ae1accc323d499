# Salt misses machines, or sees them again: the conductor asks them, and a person hears of those that do not answer.
# Replacing machines that should serve is the conductor's own: it needs HAProxy's word as well (pillar/scaling.sls, healing).
machines whose presence changed:
  runner.scale.lost:
    - args:
      - gone: {{ data.get('lost', []) | json }}
      - back: {{ data.get('new', []) | json }}
