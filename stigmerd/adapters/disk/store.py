"""The files of the home, as the daemon and the command line see them: places, state, events.

Nothing here imports Trio: the command line reads the same files when no daemon runs.
"""

from stigmerd.adapters.disk.history import EventFiles, EventTail, read_events
from stigmerd.adapters.disk.home import Home, HomeError, HomeTakenError, default_home
from stigmerd.adapters.disk.state import Loaded, StateFiles, note_stopped, read_state

__all__ = [
    "EventFiles",
    "EventTail",
    "Home",
    "HomeError",
    "HomeTakenError",
    "Loaded",
    "StateFiles",
    "default_home",
    "note_stopped",
    "read_events",
    "read_state",
]
