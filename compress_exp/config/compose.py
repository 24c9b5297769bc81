"""Composing a configuration, the way that the command line and the notebook share.

Nothing here imports torch: it is loaded at every start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from compress_exp.config.checks import UserError
from compress_exp.config.explain import CONFIG_NAME, check_root, explain
from compress_exp.config.overrides import at_home, options, parse, values
from compress_exp.config.schema import CONF
from compress_exp.config.variants import apart


class Loader(ConfigLoaderImpl):
    """Composes a sweep's own configuration as that of its first job, without what not every job may have.

    Hydra composes it without the swept groups, which refuses `-m method=quant,quant/bf16 method.quant.x=1` because the
    default method is another one.
    """

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """What Hydra composes; for a sweep with the first of each swept group's choices and nothing below the group."""
        try:
            return self._load(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        except ValueError as error:  # such as train=null
            raise ConfigCompositionException(f"{' '.join(overrides)}: {error}") from error

    def _load(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, from_shell: bool, validate: bool
    ) -> DictConfig:
        parsed = parse(overrides, self)
        if run_mode is not RunMode.MULTIRUN:
            return self._compose(config_name, parsed, parsed, run_mode, from_shell, validate)
        swept = {item.input_line for item in parsed if item.is_discrete_sweep() and not item.is_hydra_override()}
        above = [item for item in parsed if not _below(item, [other for other in parsed if other.is_sweep_override()])]
        first = [values(item, self)[0] if item.input_line in swept else str(item.input_line) for item in above]
        return self._compose(config_name, parse(first, self), parsed, run_mode, from_shell, validate)

    def _compose(
        self,
        config_name: str | None,
        chosen: list[Override],
        written: list[Override],
        run_mode: RunMode,
        from_shell: bool,
        validate: bool,
    ) -> DictConfig:
        """Compose what was chosen, and note what was written."""
        config = super().load_configuration(config_name, apart(chosen), run_mode, from_shell, validate)
        config.hydra.overrides.task = [item.input_line for item in written if not item.is_hydra_override()]
        return config


def _below(item: Override, swept: Sequence[Override]) -> bool:
    """Whether an override is about what a swept group holds, as method.prune.sparsity is with method=prune,quant."""
    return any((item.package or item.key_or_group).startswith(f"{other.key_or_group}.") for other in swept)


def loader_of(directory: str | None = None) -> Loader:
    """What composes our configuration files; Hydra's version base is set.

    Args:
        directory: one more directory of configuration files, searched first.

    Raises:
        UserError: it is no directory.
    """
    version.setbase("1.3")
    search_path = create_config_search_path(str(CONF))
    if directory is not None:
        if not Path(directory).is_dir():
            raise UserError(f"--config-dir: {directory!r} is not a directory")
        place = f"file://{Path(directory).resolve()}"
        search_path.prepend("command-line", place, anchor=SearchPathQuery(provider="main"))
    return Loader(search_path)


def compose(arguments: Sequence[str]) -> DictConfig:
    """The configuration of one run in this process, whatever Hydra is doing in it already.

    Args:
        arguments: overrides as on the command line.

    Raises:
        UserError: it does not compose, in the sentence of the command line; or it is more than one run.
    """
    with _version_base():
        loader = loader_of()
        overrides = [at_home(item) for item in arguments]
        try:
            for item in parse(overrides, loader):
                if item.is_hydra_override():
                    raise UserError(f"{item.input_line}: only the command line takes keys of hydra")
            config = loader.load_configuration(CONFIG_NAME, overrides, RunMode.RUN)
        except HydraException as error:
            raise explain(error, overrides, loader) from error
    if config.hydra.mode is RunMode.MULTIRUN:
        raise UserError(f"{' '.join(arguments)}: this is a sweep; the command line runs it")
    with read_write(config), open_dict(config):
        del config["hydra"]
    check_root(config)
    return config


def choices(group: str) -> list[str]:
    """The names of a group's configuration files."""
    with _version_base():
        return options(group, loader_of().repository)


@contextmanager
def _version_base() -> Iterator[None]:
    """Leave Hydra's version base, which is one for the process, as it was."""
    before = version.getbase()
    try:
        yield
    finally:
        version.VersionBase.instance().version_base = before
