#!py
# A machine has come up: have it take on its role, and register itself at the end of that. Of several masters, which all
# hear that it came, the leader does it.
from saltern.fleet import Fleet
from saltern.leading import follows


def run():
    if follows(Fleet.load(__opts__["saltern_state_dir"])):
        return {}
    target = [{"tgt": [data["id"]]}, {"tgt_type": "list"}, {"kwarg": {"queue": True}}]
    return {"highstate of the machine that started": {"local.state.apply": target}}
