from __future__ import annotations

import platform

from cpuinfo import get_cpu_info

from compress_exp.measurement import cpu
from compress_exp.measurement.origin import FLAGS, origin


def test_the_machine_is_called_as_py_cpuinfo_calls_it():
    found = get_cpu_info()
    assert origin()["cpu"] == found.get("brand_raw", platform.processor())
    assert origin()["cpu_flags"] == [flag for flag in FLAGS if flag in found.get("flags", ())]


def test_a_listing_without_a_name_is_left_to_py_cpuinfo(tmp_path, monkeypatch):
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\n")
    monkeypatch.setattr(cpu, "LISTING", listing)
    cpu.cpu_name.cache_clear()
    cpu.cpu_flags.cache_clear()
    try:
        assert cpu.cpu_flags() == {"fp", "asimd", "asimddp"}
        assert cpu.cpu_name() == get_cpu_info().get("brand_raw", platform.processor())
        listing.write_text(
            "processor : 0\nmodel name : Some CPU @ 2.00GHz\n\nprocessor : 1\nmodel name : Some CPU @ 2.00GHz\n"
        )
        cpu.cpu_name.cache_clear()
        assert cpu.cpu_name() == "Some CPU @ 2.00GHz"
    finally:
        cpu.cpu_name.cache_clear()
        cpu.cpu_flags.cache_clear()
