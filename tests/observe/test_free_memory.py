"""The free memory of a CPU is that of the kernel, or what the cgroups of a container or job leave of it."""

import os

import pytest
import torch

from gradscope.observe.free_memory import cgroup_free_bytes, free_bytes

GB = 10**9


def cgroup(folder, *, names, limit, usage, cache):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, usage), strict=True):
        (folder / name).write_text(f"{value}\n")
    key = "inactive_file" if "max" in names[0] else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\n{key} {cache}\nactive_file 7\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


def test_it_is_less_than_the_memory_of_the_machine():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_bytes(torch.device("cpu")) < total


def test_a_device_without_known_memory_has_none():
    assert free_bytes(torch.device("meta")) is None


def test_the_tightest_cgroup_of_version_2_counts_and_its_cache_is_free(tmp_path):
    cgroup(tmp_path / "slurm", names=V2, limit=8 * GB, usage=5 * GB, cache=1 * GB)
    cgroup(tmp_path / "slurm" / "job", names=V2, limit="max", usage=4 * GB, cache=0)
    assert cgroup_free_bytes("0::/slurm/job/step\n", tmp_path) == 4 * GB


@pytest.mark.parametrize(("usage", "free"), [(3 * GB, 3 * GB), (7 * GB, 0)])
def test_a_cgroup_of_version_1_limits_by_its_memory_controller(tmp_path, usage, free):
    cgroup(tmp_path / "memory" / "docker" / "a1", names=V1, limit=5 * GB, usage=usage, cache=GB)
    membership = "5:cpu,cpuacct:/docker/a1\n4:memory:/docker/a1\n0::/\n"
    assert cgroup_free_bytes(membership, tmp_path) == free


def test_without_a_limit_there_is_none(tmp_path):
    assert cgroup_free_bytes("0::/\n", tmp_path) is None
