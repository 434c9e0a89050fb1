"""The native pass. It is optional: where it cannot be built, gradscope installs without it."""

import atexit
import shutil
import tempfile
from pathlib import Path

from setuptools import Extension, setup

SOURCE = Path("gradscope/native")
BUILD = tempfile.mkdtemp(
    prefix="gradscope-build-"
)  # `pip install` leaves no build folder in the checkout
atexit.register(shutil.rmtree, BUILD, ignore_errors=True)

setup(
    ext_modules=[
        Extension(
            "gradscope.native._native",
            sources=[str(path) for path in sorted(SOURCE.glob("*.c"))],
            depends=[str(path) for path in sorted(SOURCE.glob("*.h"))],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            # -ffast-math must never come in: linked so, it flushes subnormals in the whole process.
            extra_compile_args=["-O3", "-fno-fast-math", "-std=gnu11", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"build": {"build_base": BUILD}, "bdist_wheel": {"py_limited_api": "cp311"}},
)
