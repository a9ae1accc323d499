# A machine asks, by a signed event, for more memory for itself: it is doubled while it runs, up to the maximum.
more memory for the machine:
  runner.scale.request:
    - args:
      - tag: {{ tag | json }}
      - minion_id: {{ data['id'] | json }}
      - payload: {{ data['data'] | json }}
