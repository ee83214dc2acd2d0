"""The draft on the study page: its sentences, each with the patches that it attended to."""

import json
from dataclasses import dataclass

from thinwire.shared.errors import BadFormat


@dataclass(frozen=True)
class DraftPanelSentence:
    text: str
    share: tuple[float, ...]
    """Share of the sentence's attention by kept patch; empty if the draft is of another graph."""

    @property
    def shares(self) -> str:
        """For the page's script, which highlights the patches."""
        return ",".join(f"{each:.3f}" for each in self.share)


@dataclass(frozen=True)
class DraftPanel:
    sentences: tuple[DraftPanelSentence, ...]
    bundle: str

    @property
    def text(self) -> str:
        return " ".join(each.text for each in self.sentences)


def draft_panel(data: bytes | None, patches: int) -> DraftPanel | None:
    """data: JSON from `inference/draft.py`. patches: number of kept patches. Raises BadFormat."""
    if data is None:
        return None
    try:
        facts = json.loads(data)
        sentences = tuple(
            DraftPanelSentence(
                str(each["text"]), tuple(map(float, each["share"])) if len(each["share"]) == patches else ()
            )
            for each in facts["sentences"]
        )
        return DraftPanel(sentences, str(facts["bundle"])) if sentences else None
    except (ValueError, KeyError, TypeError) as error:
        raise BadFormat("the machine's draft on a study is damaged", "Let the draft be made again.") from error
