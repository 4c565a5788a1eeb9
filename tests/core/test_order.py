"""In which order components stop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stigmerd.core.order import find_cycle, stop_waves

NAMES = st.sampled_from("abcdefgh")
GRAPHS = st.dictionaries(NAMES, st.sets(NAMES, max_size=3), max_size=8)
"""Who depends on whom, on some who are not there, and on oneself."""


def test_dependents_stop_first_and_who_has_none_stops_at_once() -> None:
    assert stop_waves({}) == []
    assert stop_waves({"db": [], "api": ["db"], "web": ["api", "db"], "job": ["db"], "alone": []}) == [
        {"web", "job", "alone"},
        {"api"},
        {"db"},
    ]


def test_circle_stops_last_and_at_once() -> None:
    assert stop_waves({"a": ["b"], "b": ["a"], "c": ["a"]}) == [{"c"}, {"a", "b"}]


@given(GRAPHS)
def test_everybody_stops_once_and_after_all_dependents(dependencies: dict[str, set[str]]) -> None:
    waves = stop_waves(dependencies)
    assert sorted(name for wave in waves for name in wave) == sorted(dependencies)
    if find_cycle(dependencies) is None:
        place = {name: number for number, wave in enumerate(waves) for name in wave}
        for name, needed in dependencies.items():
            assert all(place[name] < place[other] for other in needed if other in place)
