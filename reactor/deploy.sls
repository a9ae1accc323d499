#!py
# ops1 says how a build stands: the master checks the signature and has what passed fetched and rolled out.
# In Python, because a signed payload must arrive as it was sent: YAML reads some JSON otherwise than it was meant.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data}]
    return {"deliver the build": {"runner.build.deliver": [{"args": arguments}]}}
