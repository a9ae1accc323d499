# A machine says, by a signed event, that its pool has one too many: the youngest is drained and given up, bounds hold.
fewer machines for the pool:
  runner.scale.request:
    - args:
      - tag: {{ tag | json }}
      - minion_id: {{ data['id'] | json }}
      - payload: {{ data['data'] | json }}
