"""Compile the Triton kernels for devices that need not be there, and print what came of it, as JSON.

`test_triton.py` starts this: Triton brings NVIDIA's assembler along, but no device to run the result.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gradscope.observe.cuda import kernels

KINDS = {"float32": tl.float32, "float64": tl.float64, "bfloat16": tl.bfloat16, "float16": tl.float16}


def main() -> None:
    print(json.dumps(list(reports())))


def reports() -> Iterator[dict[str, Any]]:
    yield report(75, kernels.reduce_one, "float32", is_full=False)
    for is_full in (False, True):
        for kind in KINDS:
            yield report(90, kernels.reduce_one, kind, is_full=is_full)
        for is_change in (False, True):
            yield report(90, kernels.reduce_many, "float32", is_full=is_full, is_change=is_change)


def report(capability, kernel, kind, *, is_full, is_change=False):
    told = {
        "KIND": KINDS[kind], "LEAST_NORMAL": 1 << 23,
        "IS_ALIGNED": True, "IS_FULL": is_full, "IS_CHANGE": is_change,
    }  # fmt: skip
    constants = {name: told[name] for name in kernel.arg_names if name in told}
    signature = {name: "constexpr" if name in constants else "i64" for name in kernel.arg_names}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, {}),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": kernels.WARPS},
    )
    code = compiled.asm["ptx"]
    return {
        "capability": capability, "kernel": kernel.__name__, "kind": kind,
        "is_full": is_full, "is_change": is_change,
        "flushes": "ftz" in code,
        "reads_wide": bool(re.search(r"ld\.global\.v[24]\.b(32|64)", code)),
        "spilled_bytes": spilled(compiled.asm["cubin"]),
    }  # fmt: skip


def spilled(binary: bytes) -> int:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(binary)
        answer = subprocess.run(
            [tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True
        )
    return int(re.findall(r"STACK:(\d+)", answer.stdout)[-1])


if __name__ == "__main__":
    main()
