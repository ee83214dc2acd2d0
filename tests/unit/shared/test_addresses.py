import pytest

from thinwire.shared.addresses import address_text, host_and_port
from thinwire.shared.errors import BadConfiguration


@pytest.mark.parametrize("text", ["", "hub", "hub:", ":7443", "hub:0", "hub:70000", "hub:x", "hub:-1", "hub:\u00b2"])
def test_what_is_no_address_of_a_hub_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(BadConfiguration) as error:
        host_and_port(text, "Set hub.", 1)
    assert error.value.remedy == "Set hub."


def test_a_port_may_be_any_free_one() -> None:
    assert host_and_port("127.0.0.1:0") == ("127.0.0.1", 0)


@pytest.mark.parametrize("text", ["hub.example.org:7443", "[2001:db8::1]:7443"])
def test_an_address_is_written_as_it_was_read(text: str) -> None:
    host, port = host_and_port(text)
    assert "[" not in host
    assert address_text(host, port) == text
