"""Prints all that a script can see of its process, and ends in the given way. Imports neither torch nor gradscope."""

import atexit
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import children


def describe():
    own = {name: value for name, value in os.environ.items() if name not in ("_", "SHLVL")}
    return {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "name": __name__,
        "file": __file__,
        "spec": str(__spec__ and __spec__.name),
        "loader": type(__loader__).__name__,
        "environment": own,
        "folder": str(Path.cwd()),
        "flags": str(sys.flags),
        "warnings": sys.warnoptions,
        "encoding": sys.stdout.encoding,
        "signals": [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)],
        "custom": sorted(name for name in sys.modules if "custom" in name),
        "threads": threading.active_count(),
    }


def fail():
    raise ValueError("boom")


def main(how):
    atexit.register(print, "the script's own atexit")
    print(json.dumps(describe(), indent=1), flush=True)
    if how == "raise":
        fail()
    elif how == "exit":
        sys.exit(3)
    elif how == "exit-text":
        sys.exit("bad")
    elif how == "_exit":
        os._exit(5)
    elif how in ("SIGTERM", "SIGINT", "SIGKILL"):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)
    elif how == "fork":
        pid = os.fork()
        if pid == 0:
            sys.exit(4)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    elif how == "spawn":
        process = multiprocessing.get_context("spawn").Process(target=children.child)
        process.start()
        process.join()
        print(process.exitcode)


if __name__ == "__main__":
    main(sys.argv[1])
