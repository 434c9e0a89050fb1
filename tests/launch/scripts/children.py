"""What a process that a script has spawned does."""

import os
import sys


def child():
    print(
        sys.argv, sys.path[0], os.environ.get("PYTHONPATH"), os.environ.get("GRADSCOPE_RUN"), flush=True
    )
    sys.exit(7)
