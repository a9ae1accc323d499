#!py
# A machine asks for another one beside it, by a signed event: the conductor's queue gets the wish, bounds hold.
# Pressure felt by the beacons needs no reflex here: the conductor hears it on the bus, because a storm would stall this one.
# In Python, because a signed payload must arrive as it was sent: YAML reads some JSON otherwise than it was meant.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data["data"]}]
    return {"more machines for the pool": {"runner.scale.request": [{"args": arguments}]}}
