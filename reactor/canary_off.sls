#!py
# Staging or the proxy is under pressure: the canary goes off, at once.
# In Python, because a signed payload must arrive as it was sent: YAML reads some JSON otherwise than it was meant.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data}]
    return {"turn the canary off": {"runner.reflex.canary_off": [{"args": arguments}]}}
