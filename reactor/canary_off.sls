# Staging or the proxy is under pressure: the canary goes off, at once.
turn the canary off:
  runner.reflex.canary_off:
    - args:
      - tag: {{ tag | json }}
      - minion_id: {{ data.get('id') | json }}
      - payload: {{ data | json }}
