#!py
# A machine is under pressure, or is so no longer, or cannot tell: an alert begins or ends.
# In Python, because a signed payload must arrive as it was sent: YAML reads some JSON otherwise than it was meant.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data}]
    return {"tell the operator": {"runner.alert.feel": [{"args": arguments}]}}
