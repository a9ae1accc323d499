"""
Which of the fleet's masters the minion names first: one that answers. Run before it starts (salt-minion.service).

The minion connects to all, and feels through the first alone: where that one is away it would feel nothing.

Usage: saltern-masters LIST CONFIGURATION [PORT], with one address a line in LIST
"""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PORT = 4505
SECONDS = 2


def answers(address, port):
    try:
        socket.create_connection((address, port), SECONDS).close()
    except OSError:
        return False
    return True


def main(listed, configuration, port=PORT):
    masters = Path(listed).read_text().split()
    with ThreadPoolExecutor(len(masters)) as pool:
        there = list(pool.map(lambda each: answers(each, int(port)), masters))
    # The order stays among those that answer, and among those that do not.
    first = [each for each, here in zip(masters, there, strict=True) if here]
    told = json.dumps({"master": first + [each for each in masters if each not in first]})
    half = Path(f"{configuration}.half")
    half.write_text(f"# Written by saltern-masters whenever the minion starts.\n{told}\n")
    half.replace(configuration)


if __name__ == "__main__":
    main(*sys.argv[1:])
