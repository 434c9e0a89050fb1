"""Runs a script as `gradscope run` does, in a process that has imported torch already.

    observed.py REPORT SCRIPT [ARGUMENTS]

The process writes what was observed to the file REPORT, as JSON.
"""

import json
import os
import runpy
import sys
from collections import defaultdict
from pathlib import Path

import torch._dynamo.callback
from torch.optim.optimizer import register_optimizer_step_pre_hook

import gradscope
from gradscope.errors import NotMeasuredError
from gradscope.launch.options import LaunchOptions
from gradscope.launch.watch import TrainingWatch

scopes = {}
kinds = defaultdict(dict)


class Options(LaunchOptions):
    def attach_arguments(self):
        return super().attach_arguments() | {"hub": None}


def remember(*_):
    scopes.update((scope.run, scope) for scope in gradscope.scopes())
    for run, scope in scopes.items():
        try:
            table = scope._latest_steps.latest()
        except NotMeasuredError:
            continue
        kinds[run][table.step] = sorted({kind for rows in table.values() for kind in rows})


def main():
    path, *sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    watch = TrainingWatch(Options(every=1, record=False, pid=os.getpid()))
    watch.install()
    watch.observe_compilations(torch._dynamo.callback.callback_handler)
    register_optimizer_step_pre_hook(remember)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        remember()
        report = {
            run.rpartition("-")[0]: {
                "steps": scope.step,
                "kinds": kinds[run],
                "findings": [finding.code for finding in scope.findings if finding.level != "info"],
                "faults": scope.faults,
            }
            for run, scope in scopes.items()
        }
        answer = {
            "runs": report,
            "has_seen_step": watch.has_seen_step,
            "has_observed": watch.has_observed,
        }
        Path(path).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
