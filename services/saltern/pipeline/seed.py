"""Fill an empty git repository with a first commit, once.

python3 -m saltern.pipeline.seed --repository /srv/git/product.git --tree FOLDER --branches staging,production
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from saltern.artifact import MARKER

AUTHOR = {
    "GIT_AUTHOR_NAME": "Saltern",
    "GIT_AUTHOR_EMAIL": "saltern@fleet.test",
    "GIT_AUTHOR_DATE": "2025-01-01T00:00:00Z",
}


def seed(repository: Path, tree: Path, branches: list[str]) -> str:
    """Commit what is in `tree` on these branches of a bare repository, unless it has any commit.

    :returns: the commit, or "" when there were some already
    :raises subprocess.CalledProcessError: git failed
    """
    identity = AUTHOR | {name.replace("AUTHOR", "COMMITTER"): value for name, value in AUTHOR.items()}
    index = repository / "seed.index"
    place = {"GIT_DIR": str(repository), "GIT_WORK_TREE": str(tree), "GIT_INDEX_FILE": str(index)}
    environment = {**os.environ, **identity, **place}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    if git("for-each-ref", "--count=1"):
        return ""
    try:
        # The marker of what was unpacked whole is none of the product's.
        git("add", "--all", "--force", ".", f":(exclude){MARKER}")
        commit = git("commit-tree", git("write-tree"), "-m", "The product, as the fleet starts with it")
        for branch in branches:
            git("update-ref", f"refs/heads/{branch}", commit)
        git("symbolic-ref", "HEAD", f"refs/heads/{branches[0]}")
    finally:
        index.unlink(missing_ok=True)
    return commit


def main() -> int:
    parser = argparse.ArgumentParser(prog="saltern.pipeline.seed")
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--branches", required=True)
    chosen = parser.parse_args()
    try:
        commit = seed(chosen.repository, chosen.tree, chosen.branches.split(","))
    except subprocess.CalledProcessError as error:
        print(f"seed: {' '.join(error.cmd[:2])}: {error.stderr.strip()[-300:]}", file=sys.stderr)
        return 1
    print(commit or "it has commits already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
