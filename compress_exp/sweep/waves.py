"""The order in which the jobs of a sweep are launched: what several runs share comes first, level by level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress_exp.outputs.manifest import Member


@dataclass(frozen=True)
class Task:
    """One job to launch.

    Attributes:
        overrides: of the job.
        members: the runs that need it; for a whole run all members that ask for it.
        key: of the artifact that it builds; None for a whole run.
        name: of the run's directory that the job works in; None where nothing is known of the runs.
    """

    overrides: tuple[str, ...]
    members: tuple[Member, ...]
    key: str | None
    name: str | None


def next_wave(members: Sequence[Member], built: Callable[[str], bool]) -> list[Task]:
    """The jobs that can be launched at once.

    That is one for each missing artifact that several runs share, of the lowest level that has any (level 0 are
    baselines); once there is none, one for each run.

    Args:
        members: the runs that are missing.
        built: whether the artifact of a key is there.
    """
    runs: dict[str, list[Member]] = {}
    for index, member in enumerate(members):
        runs.setdefault(repr(member.identity or index), []).append(member)
    chains = {name: _wanted(same[0]) for name, same in runs.items()}
    for level in range(max(map(len, chains.values()), default=0)):
        users: dict[str, list[str]] = {}
        for name, chain in chains.items():
            if level < len(chain):
                users.setdefault(chain[level], []).append(name)
        shared = {key: names for key, names in users.items() if len(names) > 1 and not built(key)}
        if shared:
            return [_prefix(key, level, [m for name in names for m in runs[name]]) for key, names in shared.items()]
    return [Task(same[0].overrides, tuple(same), None, _name(same[0])) for same in runs.values()]


def _wanted(member: Member) -> tuple[str, ...]:
    identity = member.identity
    if identity is None:
        return ()
    return identity.chain if identity.until is None else identity.chain[: identity.until + 1]


def _prefix(key: str, level: int, members: list[Member]) -> Task:
    until = f"until={level or 'baseline'}"
    kept = [item for item in members[0].overrides if not item.startswith("until=")]
    return Task((*kept, until), tuple(members), key, _name(members[0]))


def _name(member: Member) -> str | None:
    return member.identity.name if member.identity else None
