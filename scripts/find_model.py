"""Find out whether a model can be had, before any machine fetches it; `pulumi up` runs this.

With `weights: hub` a machine that may not have the model would try again and again, its GPU paid
for. Environment: SOURCE, MODEL, REVISION, HF_ENDPOINT, as for scripts/stage_weights.py; HF_TOKEN is
secret. Exits 1 when there is no such model, or it is not for the token's owner.
"""

import os
import sys

from scripts.download_weights import StagingError, source_of
from scripts.stage_weights import find_commit


def main() -> int:
    """Look, and tell."""
    env = os.environ
    try:
        find_commit(source_of(env, env.get("HF_TOKEN", "")))
    except StagingError as error:
        print(f"{env['MODEL']} cannot be had: {error}\n  next: {error.next_step}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
