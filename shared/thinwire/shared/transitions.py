"""Transition tables of state machines: (state, event) to the next state."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

State = TypeVar("State")
Event = TypeVar("Event")


class Transitions(Mapping[tuple[State, Event], State]):
    """The next state of each (state, event). noun: the thing with the state, such as "part"."""

    def __init__(self, noun: str, table: Mapping[tuple[State, Event], State]) -> None:
        self._noun = noun
        self._table = dict(table)

    def after(self, state: State, event: Event) -> State:
        """The next state. Raises ValueError for an event without a transition: a programming error."""
        if (state, event) not in self._table:
            raise ValueError(f"a {self._noun} that is {state} cannot be {event}")
        return self._table[state, event]

    def before(self, event: Event) -> list[State]:
        """The states with a transition for an event, in the order of the table."""
        return [state for state, known in self._table if known == event]

    def __getitem__(self, key: tuple[State, Event]) -> State:
        return self._table[key]

    def __iter__(self) -> Iterator[tuple[State, Event]]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)
