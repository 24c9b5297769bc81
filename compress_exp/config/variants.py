"""Several variants of one family in one list of methods: the first keeps the family's key, others take their own.

`method=[prune/vocabulary,prune/structured,quant]` gives `method.prune`, `method.structured` and `method.quant`, in that
order. Every file of `conf/method` says by its header that it stands under its family's key, where Hydra takes one only.

Nothing here imports torch: it is loaded at every start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra.core.override_parser.types import Override


def apart(parsed: Sequence[Override]) -> list[str]:
    """Overrides that compose, of those that a user wrote.

    Args:
        parsed: of one job; a list of methods of which two have the family in common is written out one by one.
    """
    return [line for item in parsed for line in _apart(item)]


def _apart(item: Override) -> Iterator[str]:
    chosen = item.value() if item.key_or_group == "method" and item.package is None and not item.is_delete() else None
    written = str(item.input_line)
    if not isinstance(chosen, list) or not all(isinstance(name, str) for name in chosen):
        yield written
        return
    names = [str(name) for name in chosen]
    keys = keys_of(names)
    if all(key == _family(name) for key, name in zip(keys, names, strict=True)):
        yield written
        return
    yield f"method=[{names[0]}]"
    for key, name in zip(keys[1:], names[1:], strict=True):
        yield f"+method@method.{key}={name}"


def keys_of(names: Sequence[str]) -> list[str]:
    """The key of every method of a list: its family, or its file's name where the family is taken.

    Args:
        names: such as prune/structured.
    """
    keys: list[str] = []
    for name in names:
        family = _family(name)
        keys.append(family if family not in keys else name.rpartition("/")[2])
    return keys


def _family(name: str) -> str:
    return name.partition("/")[0]
