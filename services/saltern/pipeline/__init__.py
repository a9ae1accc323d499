"""From a push to an artifact: git's hooks, the worker that builds, and the sandbox it builds in. Runs on ops1."""
