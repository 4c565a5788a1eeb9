"""Which components there are, as far as the files of a home tell: what names are judged by without a daemon.

The state knows those that a daemon has had. The configuration knows also those that were never started; it is
read only for a name that the state does not know, because that takes longer than most answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from stigmerd.adapters.disk.home import Home
from stigmerd.cli.errors import check_names

if TYPE_CHECKING:
    from stigmerd.core.spec import ComponentSpec


def recorded_names(home: Home) -> list[str]:
    """The components that the state knows, in the order of the file."""
    from stigmerd.adapters.disk.store import read_state

    return list(read_state(home).components)


def configured(home: Home, bound: float | None = None) -> Mapping[str, ComponentSpec] | None:
    """The components of the file that the last daemon went by, else of the default one; None if it cannot be read.

    ``bound`` is in seconds, by default as for every reader of the configuration.
    """
    from stigmerd.adapters.disk.store import read_state
    from stigmerd.cli.reader import read_stack
    from stigmerd.config.problems import LOAD_BOUND, ConfigError

    last = read_state(home).daemon
    try:
        return read_stack(last.config if last else None, home=home.path, bound=bound or LOAD_BOUND).components
    except ConfigError:
        return None


def check_names_in_files(home: Home, names: Sequence[str], known: Collection[str]) -> None:
    """Refuse a name that is neither known already nor in the configuration.

    Where nothing is known and the configuration cannot be read, every name is as good as another.

    Raises:
        CommandError: exit code 2.
    """
    if all(name in known for name in names):
        return
    specs = configured(home)
    if specs is not None or known:
        check_names(names, dict.fromkeys([*(specs or ()), *known]))
