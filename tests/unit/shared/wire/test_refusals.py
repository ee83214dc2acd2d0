import pytest

from thinwire.shared import errors
from thinwire.shared.errors import Final, Retryable, ThinwireError
from thinwire.shared.wire.refusals import ERROR_OF, code_of
from thinwire.shared.wire.v1 import link_pb2 as wire

EVERY = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ThinwireError)]


@pytest.mark.parametrize("error", EVERY)
def test_what_may_be_retried_at_the_hub_may_be_retried_at_the_clinic(error: type[ThinwireError]) -> None:
    there = ERROR_OF[code_of(error("what"))]
    assert issubclass(there, Final) == issubclass(error, Final)
    assert issubclass(there, Retryable) == (not issubclass(error, Final))


@pytest.mark.parametrize("error", [errors.DiskFull, errors.HubBusy, errors.Forged, errors.UnknownBundle])
def test_an_error_of_the_table_crosses_as_itself(error: type[ThinwireError]) -> None:
    assert ERROR_OF[code_of(error("what"))] is error


def test_every_code_but_the_first_has_a_meaning() -> None:
    assert set(ERROR_OF) == set(wire.RefusalCode.values()) - {wire.REFUSAL_CODE_UNSPECIFIED}
