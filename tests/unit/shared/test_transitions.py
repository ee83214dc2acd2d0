import pytest

from thinwire.shared.transitions import Transitions

TABLE = Transitions("lamp", {("off", "pressed"): "on", ("on", "pressed"): "off", ("on", "struck"): "broken"})


def test_the_state_follows_from_the_table_and_from_nothing_else() -> None:
    assert [TABLE.after("off", "pressed"), TABLE.after("on", "struck")] == ["on", "broken"]
    with pytest.raises(ValueError, match="a lamp that is broken cannot be pressed"):
        TABLE.after("broken", "pressed")


def test_the_states_that_know_an_event() -> None:
    assert TABLE.before("pressed") == ["off", "on"]
    assert TABLE.before("sold") == []
