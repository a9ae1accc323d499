# A machine asks for another one beside it, by a signed event: the conductor's queue gets the wish, bounds hold.
# Pressure felt by the beacons needs no reflex here: the conductor hears it on the bus, because a storm would stall this one.
more machines for the pool:
  runner.scale.request:
    - args:
      - tag: {{ tag | json }}
      - minion_id: {{ data['id'] | json }}
      - payload: {{ data['data'] | json }}
