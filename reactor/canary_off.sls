#!py
# Staging or the proxy is under pressure: the canary goes off, at once and before whatever else is done. The engine
# `reflex` does the same, and is mostly quicker; an event counts once for both. Python hands on what came exactly as it came.


def run():
    arguments = [{"tag": tag}, {"minion_id": data.get("id")}, {"payload": data}]
    return {"turn the canary off": {"runner.reflex.canary_off": [{"args": arguments}, {"order": 1}]}}
