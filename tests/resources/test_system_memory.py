"""What the process and the device tell of memory, and the example that is built on it."""

import sys
from pathlib import Path

import pytest
import torch

from gradscope.resources import SystemMemory
from support import fork_server

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not say it cheaply")
def test_the_resident_set_grows_by_what_is_touched_and_shrinks_by_what_is_freed():
    machine = SystemMemory(torch.device("cpu"))
    machine.open()
    before = machine.resident_bytes()
    held = torch.ones(64 * MIB // 4)
    grown = machine.resident_bytes()
    del held
    after = machine.resident_bytes()
    machine.close()
    assert grown - before == pytest.approx(64 * MIB, rel=0.1)
    assert grown - after == pytest.approx(64 * MIB, rel=0.1)
    assert machine.resident_bytes() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_hosts_numbers_fit_together():
    machine = SystemMemory(torch.device("cpu"))
    machine.open()
    told = machine.numbers()
    machine.close()
    assert set(told) == {"host_resident", "host_peak", "host_total", "host_available"}
    assert 0 < told["host_resident"] <= told["host_total"]
    assert told["host_available"] < told["host_total"]
    assert not machine.is_of_device


def test_a_devices_numbers_are_its_allocators_and_its_drivers(monkeypatch):
    """Stands for a device where there is none: the counters as torch nests them."""
    counters = {"allocated_bytes": 700, "reserved_bytes": 900, "active_bytes": 750}
    statistics = {
        name: {"all": {"current": size, "peak": size + 100}} for name, size in counters.items()
    } | {"inactive_split_bytes": {"all": {"current": 50, "peak": 60}}}
    monkeypatch.setattr(torch._C, "_cuda_memoryStats", lambda _: statistics, raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 4000))
    machine = SystemMemory(torch.device("cuda", 0))
    assert machine.held_bytes() == 700
    told = {k: v for k, v in machine.numbers().items() if k.startswith("device_")}
    assert told == {
        "device_allocated": 700, "device_peak": 800, "device_reserved": 900, "device_active": 750,
        "device_fragmented": 50, "device_total": 4000, "device_free": 1000, "device_others": 2100,
    }  # fmt: skip


def test_the_example_prints_32_mib_with_gradients_and_none_without():
    script = Path(__file__).parents[2] / "examples" / "memory_of_a_sigmoid.py"
    said = fork_server.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert "cpu, with gradients: the sigmoid keeps 32.0 MiB" in said
    assert "cpu, under no_grad: the sigmoid keeps 0 B" in said
