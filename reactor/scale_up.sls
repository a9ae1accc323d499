#!py
# A machine asks, by a signed event, for more memory for itself: it is doubled while it runs, up to the maximum.
# In Python, because a signed payload must arrive as it was sent: YAML reads some JSON otherwise than it was meant.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data["data"]}]
    return {"more memory for the machine": {"runner.scale.request": [{"args": arguments}]}}
