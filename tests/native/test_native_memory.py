"""The native pass touches no byte outside of what it was given: seen by the compiler's sanitizers."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(300)]  # the first run compiles for a minute

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "gradscope" / "native"
FLAGS = [
    "-g1",  # lines for the reports; what -g adds takes the compiler as long again
    "-O1",
    "-std=gnu11",
    "-fno-fast-math",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
]
WARNINGS = ["-Wall", "-Wextra", "-Wno-psabi"]
PASSES = [SOURCE / f"{name}.c" for name in ("avx512", "avx2", "neon", "portable", "pass")]
PACKING = "../protocol/test_packing.py"
ITS_TESTS = (
    "test_native.py",
    "../observe/test_native_hooks.py",
    "../observe/test_row_buffer.py",
    "../observe/test_nonfinite.py",
    "../hooks/test_structure.py",
    "../agent/run/test_step_counter.py",
    f"{PACKING}::test_many_rows_have_the_bytes_of_the_plain_formula_at_every_border",
    f"{PACKING}::test_bins_that_are_no_whole_rows_are_refused_in_c",
)
DRIVER = [HERE / "passes_driver.c", SOURCE / "param_copies.c"]


def run(command, *, timeout=280, **options):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, **options
    )


def test_the_tests_that_run_with_the_sanitized_extension_exist():
    missing = [name for name in ITS_TESTS if not (HERE / name.partition("::")[0]).exists()]
    assert missing == []


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    command = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no compiler {command[0]!r}")
    folder = tmp_path_factory.mktemp("compiler")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    built = run([*command, *FLAGS, str(folder / "empty.c"), "-o", str(folder / "empty")])
    if built.returncode or run([str(folder / "empty")]).returncode:
        pytest.skip(f"{command[0]!r} has no sanitizers: {built.stderr[:200]}")
    return command


def build(compiler, sources, target, *flags):
    built = run(
        [*compiler, *FLAGS, *flags, f"-I{SOURCE}", *map(str, sources), "-o", str(target), "-lm"]
    )
    assert built.returncode == 0, built.stderr


@pytest.fixture(scope="module")
def passes(compiler, pytestconfig):
    """The passes, which take a compiler longer than all else, as objects for each of the programs.

    They are kept between runs, by the text of all sources and the compiler's version.
    """
    version = run([*compiler, "--version"]).stdout
    digest = hashlib.sha256(repr((compiler, version, FLAGS, WARNINGS)).encode())
    for path in sorted(SOURCE.glob("*.[ch]")):
        digest.update(path.read_bytes())
    folder = pytestconfig.cache.mkdir("sanitized_passes") / digest.hexdigest()[:16]
    folder.mkdir(exist_ok=True)

    def built(path):
        target = folder / f"{path.stem}.o"
        if not target.exists():
            unfinished = folder / f"{path.stem}.{os.getpid()}"
            build(compiler, [path], unfinished, "-c", "-fPIC", *WARNINGS)
            unfinished.rename(target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as compilers:
        return list(compilers.map(built, PASSES))


def library(compiler, name):
    path = Path(run([*compiler, f"-print-file-name={name}"]).stdout.strip())
    if not path.is_absolute():
        pytest.skip(f"{compiler[0]!r} has no {name} to load into a Python that runs")
    return str(path)


@pytest.mark.processes
def test_the_passes_and_the_copies_access_no_memory_outside_their_arguments(compiler, passes, tmp_path):
    """And say the same as plain loops, at every size to 300 and every alignment."""
    build(compiler, [*DRIVER, *passes], tmp_path / "driver", *WARNINGS)
    answer = run([str(tmp_path / "driver")])
    assert answer.returncode == 0, answer.stdout + answer.stderr
    *names, cases, _ = answer.stdout.split()
    assert "portable" in names
    assert int(cases) > 50_000


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="threads are PyTorch's on Linux alone")
def test_several_threads_access_only_their_parts_and_give_the_result_of_one(compiler, passes, tmp_path):
    sources = [HERE / "parallel_driver.c", SOURCE / "parallel.c", *passes]
    build(compiler, sources, tmp_path / "driver", *WARNINGS, "-fopenmp", "-DPARTED_BYTES=65536")
    answer = run([str(tmp_path / "driver")])
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert int(answer.stdout.split()[0]) > 500


@pytest.mark.processes
def test_the_aarch64_passes_give_the_same_results_on_an_emulated_processor(tmp_path):
    compiler, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
    for program in (compiler, emulator):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    driver = str(tmp_path / "driver")
    flags = ["-O3", "-std=gnu11", "-fno-fast-math", "-static", f"-I{SOURCE}", *WARNINGS]
    built = run([compiler, *flags, *map(str, [*DRIVER, *PASSES]), "-o", driver, "-lm"])
    assert built.returncode == 0, built.stderr
    answer = run([emulator, driver, "5"])
    assert answer.returncode == 0, answer.stdout + answer.stderr
    *names, cases, _ = answer.stdout.split()
    assert names == ["neon", "portable"]
    assert int(cases) > 20_000


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="sanitizers are loaded into Python as on Linux")
def test_the_extension_keeps_to_its_memory_in_its_own_tests(compiler, passes, tmp_path):
    """Tensors lie on the heap there, so what is read beyond one is seen, as is what Python is given."""
    preload = f"{library(compiler, 'libasan.so')} {library(compiler, 'libubsan.so')}"
    extension = tmp_path / "_native.so"
    include = f"-I{sysconfig.get_paths()['include']}"
    flags = ["-shared", "-fPIC", "-DPy_LIMITED_API=0x030B0000", include]
    others = [path for path in sorted(SOURCE.glob("*.c")) if path not in PASSES]
    build(compiler, [*others, *passes], extension, *flags)
    tests = [str(HERE / name) for name in ITS_TESTS]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "not was_not_built"]
    answer = run(
        [sys.executable, str(HERE / "sanitized.py"), str(extension), *tests, *options],
        timeout=1100,
        env={
            **os.environ,
            "LD_PRELOAD": preload,
            "ASAN_OPTIONS": f"detect_leaks=0:log_path={tmp_path}/fault",  # pytest has stderr
        },
    )
    faults = "".join(path.read_text()[:4000] for path in tmp_path.glob("fault*"))
    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-4000:] + faults
    assert " passed" in answer.stdout
