#!py
# A machine cannot tell how it is: an alert begins. That it is under pressure, and that this is over, is the engine
# `reflex`'s to tell, which no storm holds up; `salt-run alert.feel` takes either. Python hands on what came exactly as it
# came.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data}]
    return {"tell the operator": {"runner.alert.feel": [{"args": arguments}]}}
