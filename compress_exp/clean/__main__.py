"""`python -m compress_exp.clean [outputs] [--yes]`: what can go and the disk it takes; removed with `--yes`.

That is half-built directories that nobody works on, artifacts that no record, unfinished sweep or running run refers
to, with their evaluations and exports, and what interrupted processes left. Each thing is removed under its own lease
and looked at again there, so that nothing goes that a command began to need meanwhile.
The exit code is 1 where there is no such directory, or where something could not be removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from compress_exp.clean.leftovers import REMOVED, Leftover, leftovers
from compress_exp.clean.references import Reader
from compress_exp.config.arguments import add_outputs
from compress_exp.outputs.lease import AT_ONCE, SECONDS, holder, lease_file, spoil_if_abandoned


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m compress_exp.clean",
        description="List what is half-built or no longer referred to in outputs, and remove it with --yes.",
    )
    add_outputs(parser)
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    args = parser.parse_args(arguments)
    try:
        if args.outputs.is_dir():
            return clean(args.outputs, args.yes)
        print(f"{args.outputs}: there is no such directory; give the one that was written to", file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or args.outputs}: {error.strerror}", file=sys.stderr)
    return 1


def clean(outputs: Path, yes: bool) -> int:
    """List what can go; remove it where that was asked for."""
    reader = Reader(outputs)
    references = reader.references()
    for doubt in references.doubts:
        print(f"artifacts are kept: {doubt}")
    found = leftovers(outputs, references)
    sizes = [disk_bytes(item.path) for item in found]
    for item, size in zip(found, sizes, strict=True):
        print(f"{_mb(size)}  {item.path}: {item.why}")
    if not found:
        print(f"{outputs}: there is nothing to remove")
        return 0
    if not yes:
        print(f"{_mb(sum(sizes))}  in all; --yes removes it")
        return 0
    return remove(found, reader)


def remove(found: list[Leftover], reader: Reader) -> int:
    """Remove what is still free when its lease is held; say what was freed.

    Returns:
        The exit code: 1 if something could not be removed.
    """
    freed, failed = 0, False
    for item in found:
        try:
            with claimed(item.leased) as held:
                if not held or not (item.key is None or item.free(reader.references())):
                    print(f"kept, it is in use by now: {item.path}")
                elif item.path != lease_file(item.leased) and item.path.exists():
                    freed += _delete(item.path)
        except OSError as error:
            print(f"{error.filename or item.path}: {error.strerror}", file=sys.stderr)
            failed = True
    print(f"{_mb(freed)}  freed")
    return int(failed)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold the lease of a path if nobody alive does; whether it is held.

    A holder on another host that seems gone has as long to show itself as its lease lasts.
    """
    marker = lease_file(path)
    owner, seen = SoftFileLease(marker).owner, holder(path)
    if owner is None:
        spoil_if_abandoned(marker)
    seconds = owner.lease_duration if owner is not None and owner.lease_duration else SECONDS
    lease = SoftFileLease(marker, lease_duration=seconds, thread_local=False)
    try:
        lease.acquire(timeout=AT_ONCE if seen is None or seen.alive else seconds + 5)
    except (Timeout, LeaseSettingsMismatch):
        yield False
        return
    try:
        yield True
    finally:
        lease.release()


def disk_bytes(path: Path) -> int:
    """Bytes that a file or a directory takes on the disk; links are counted, not followed."""
    paths = [path, *(Path(folder) / name for folder, *kinds in os.walk(path) for names in kinds for name in names)]
    blocks = {(status.st_dev, status.st_ino): status.st_blocks for status in map(_lstat, paths) if status is not None}
    return 512 * sum(blocks.values())


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _delete(path: Path) -> int:
    """Rename aside, then delete; bytes that it took."""
    size = disk_bytes(path)
    if not path.is_dir():
        path.unlink()
        return size
    aside = path
    if not path.name.endswith(REMOVED):
        aside = path.with_name(f".{path.name.removeprefix('.')}{REMOVED}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    shutil.rmtree(aside)
    return size


def _mb(size: int) -> str:
    return f"{size / 1e6:9.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
