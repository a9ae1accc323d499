#!py
# An instance says what it runs: the master checks the signature and writes it into the registry.
# In Python, because a signed payload must arrive as it was sent: YAML reads some JSON otherwise than it was meant.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data["data"]}]
    return {"register the instance": {"runner.registry.register": [{"args": arguments}]}}
