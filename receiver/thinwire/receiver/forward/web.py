"""HTTP for STOW-RS and FHIR: the client, answers of bounded size, and the delivery event for an answer."""

import json
import ssl
from dataclasses import dataclass, field
from typing import Any

import httpx

from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.targets import FhirTarget, StowTarget
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.logs import silence_libraries

TIMEOUT = httpx.Timeout(60.0, connect=30.0)
"""Seconds without any progress; no limit on a whole transfer."""
_STEP = 1 << 16
_LATER = frozenset((401, 403, 404, 408, 425, 429))
"""Status codes that may be temporary, in addition to 5xx: the delivery is tried again."""

MOST_JSON = 16 << 20
"""Bytes of an answer in JSON."""


class AnswerTooLong(httpx.TransportError):
    """The answer has more bytes than what was asked for can have."""


@dataclass(frozen=True)
class Answer:
    """status: HTTP status code. kind: its Content-Type."""

    status: int
    kind: str
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        return httpx.codes.is_success(self.status)

    def json(self) -> Any:
        """The body as JSON; None if it is not."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


def ask(http: httpx.Client, method: str, url: str, most_bytes: int | None = None, **how: Any) -> Answer:
    """One request. most_bytes: limit of the answer, unpacked; by default MOST_JSON. how: as of httpx.

    Raises httpx.HTTPError.
    """
    most = MOST_JSON if most_bytes is None else most_bytes
    with http.stream(method, url, **how) as answer:
        parts, size = [], 0
        for part in answer.iter_bytes(_STEP):
            parts.append(part)
            size += len(part)
            if size > most:
                raise AnswerTooLong(f"over {most} bytes")
        return Answer(answer.status_code, answer.headers.get("Content-Type", ""), b"".join(parts))


def client(target: StowTarget | FhirTarget) -> httpx.Client:
    """Raises BadConfiguration for an auth_file or ca_file that cannot be read."""
    silence_libraries()
    headers = {}
    try:
        if target.auth_file is not None:
            lines = target.auth_file.read_text("utf-8").splitlines()
            headers["Authorization"] = lines[0].strip() if lines else ""
        verify = True if target.ca_file is None else ssl.create_default_context(cafile=str(target.ca_file))
    except (OSError, ValueError) as error:
        raise BadConfiguration(
            f"auth_file or ca_file of target {target.name} cannot be read", "Check [[forward.targets]] in config.toml."
        ) from error
    return httpx.Client(headers=headers, timeout=TIMEOUT, verify=verify, trust_env=False)


def failure(answer: Answer) -> tuple[DeliveryEvent, str]:
    """The event and reason for an unsuccessful answer."""
    later = answer.status in _LATER or answer.status >= 500
    return (DeliveryEvent.FAILED if later else DeliveryEvent.TURNED_DOWN), f"the server answered {answer.status}"


def unreachable(error: httpx.HTTPError) -> str:
    return f"the server cannot be reached ({type(error).__name__})"
