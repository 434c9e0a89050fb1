"""Puts this folder on the path, so that tests and benchmarks share `synthetic_run`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
