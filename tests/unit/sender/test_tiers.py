import pytest

from thinwire.sender.link.tiers import ORDER, TierPolicy, When
from thinwire.shared.envelope import Kind


def test_the_plan_goes_in_the_order_in_which_a_reader_needs_it() -> None:
    assert TierPolicy().plan == ORDER
    assert TierPolicy().held(Kind.EVIDENCE)
    assert not TierPolicy().held(Kind.PREVIEW)
    everything = TierPolicy(dict.fromkeys(ORDER, When.ALWAYS))
    assert everything.plan == ORDER


def test_a_part_on_request_is_made_and_held() -> None:
    policy = TierPolicy({**TierPolicy().when, Kind.PIXELS: When.ON_REQUEST})
    assert Kind.PIXELS in policy.plan
    assert policy.held(Kind.PIXELS)
    assert not policy.held(Kind.GRAPH)


@pytest.mark.parametrize("kind", [Kind.GRAPH, Kind.PIXELS, Kind.MANIFEST])
def test_a_study_without_a_part_that_makes_it_whole_is_no_policy(kind: Kind) -> None:
    with pytest.raises(ValueError, match=kind.name.lower()):
        TierPolicy({**TierPolicy().when, kind: When.NEVER})


def test_the_source_never_crosses() -> None:
    assert Kind.SOURCE not in ORDER
