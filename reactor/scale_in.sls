#!py
# A machine says, by a signed event, that its pool has one too many: the youngest is drained and given up, bounds hold.
# In Python, because a signed payload must arrive as it was sent: YAML reads some JSON otherwise than it was meant.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data["data"]}]
    return {"fewer machines for the pool": {"runner.scale.request": [{"args": arguments}]}}
