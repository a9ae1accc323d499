"""Where the master writes down what it heard of builds: what both ops1 and the master's host must agree on."""

from __future__ import annotations

BUILDS = "saltern:builds"
"""Hash: build id → JSON of what ops1 signed (result, ref, commit, release, sha256, size, platform, author, pusher, why)
and `at`, unix seconds when it was heard; then `rollout`, the intent that brings it to machines, or why that was
`refused`."""
