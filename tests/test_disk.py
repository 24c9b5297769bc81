"""A disk that is full or read-only: one sentence, nothing half-published, and the same command goes on afterwards."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.test_end_to_end import ENVIRONMENT, ROOT, artifacts, cli, command

JOB = ["method=quant", "until=1", "train.max_steps=300", "train.checkpoint_steps=3"]


@pytest.fixture
def disk(tmp_path):
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    with (place / "filler").open("wb") as stream:
        try:
            while True:
                stream.write(b"0" * 2**16)
        except OSError:
            pass


def test_a_disk_that_fills_up_in_training_is_one_sentence_and_the_same_command_goes_on(disk):
    outputs = disk / "outputs"
    process = subprocess.Popen(
        command(outputs, *JOB), cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while process.poll() is None and not list(outputs.glob("artifacts/*.partial-*/state/checkpoint.ckpt")):
        time.sleep(0.01)
    fill(disk)
    told = process.communicate()[1]
    assert process.returncode == 1
    assert told.splitlines()[-1].count("No space left on device") == 1
    assert "Traceback" not in told
    assert all("." in name for name in artifacts(outputs))
    (disk / "filler").unlink()
    again = cli(outputs, *JOB)
    assert again.returncode == 0, again.stderr
    assert "going on at step" in again.stdout
    assert not any("." in name for name in artifacts(outputs))
    assert len(artifacts(outputs)) == 2
    for path in outputs.rglob("*.json"):
        json.loads(path.read_text())


def test_a_read_only_place_is_refused_before_any_work(disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for arguments in (JOB, ["-m", *JOB]):
        done = cli(disk / "outputs", *arguments)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            f"outputs: nothing can be written in '{disk}/outputs' (Read-only file system)"
        ]
        assert "training" not in done.stdout
