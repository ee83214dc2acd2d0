"""HTTP for STOW-RS and FHIR: the client, and the delivery event for an answer."""

import ssl

import httpx

from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.targets import FhirTarget, StowTarget
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.logs import silence_libraries

TIMEOUT = httpx.Timeout(60.0, connect=30.0)
"""Seconds without any progress; no limit on a whole transfer."""
_LATER = frozenset((401, 403, 404, 408, 425, 429))
"""Status codes that may be temporary, in addition to 5xx: the delivery is tried again."""


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


def failure(answer: httpx.Response) -> tuple[DeliveryEvent, str]:
    """The event and reason for an unsuccessful answer."""
    event = (
        DeliveryEvent.FAILED if answer.status_code in _LATER or answer.status_code >= 500 else DeliveryEvent.TURNED_DOWN
    )
    return event, f"the server answered {answer.status_code}"


def unreachable(error: httpx.HTTPError) -> str:
    return f"the server cannot be reached ({type(error).__name__})"
