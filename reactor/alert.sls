#!py
# A machine is under pressure, or is so no longer, or cannot tell: an alert begins or ends. Python hands on what came
# exactly as it came.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data}]
    return {"tell the operator": {"runner.alert.feel": [{"args": arguments}]}}
