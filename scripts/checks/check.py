"""One thing that is looked at before anything is created, and what was found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from components.settings import Settings

State = Literal["ok", "fails", "unknown"]

TIMEOUT = (5.0, 10.0)
"""Seconds to connect, and to wait for more of an answer."""
RETRIES = 2
BACKOFF_SECONDS = 0.3
"""Pause before the second retry; each is twice the one before, or what the server asks for."""


class Finding(NamedTuple):
    """What came of a check."""

    check: str
    """In a few words, such as `GPU quota`."""
    state: State
    detail: str
    """What was found; of `unknown`, why it cannot be known."""
    next_step: str = ""
    """The command, the page, the quota's name and the value to ask for. Empty when all is well."""


@dataclass(frozen=True)
class Subject:
    """What is looked at: a stack, and with whose keys. Nothing prints a Subject."""

    settings: Settings
    cloudflare_token: str
    """Empty where none is configured."""
    hugging_face_token: str

    def __repr__(self) -> str:
        return f"Subject({self.settings.stack})"


Check = Callable[[Subject], Iterator[Finding]]
"""Looks at something. What it does not catch of PASSING counts as `unknown`, see `why`."""


class RefusedError(Exception):
    """Somebody said no, in these words, to a check that cannot tell what it means."""


PASSING = (RefusedError, requests.RequestException, ValueError, KeyError, TypeError)
"""The last three: answers that are not what they should be."""


def client(token: str = "") -> requests.Session:
    """An HTTP client that tries again where that is safe, and may carry a bearer token."""
    http = requests.Session()
    retry = Retry(
        total=RETRIES,
        backoff_factor=BACKOFF_SECONDS,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
    )
    http.mount("https://", HTTPAdapter(max_retries=retry))
    if token:
        http.headers["Authorization"] = f"Bearer {token}"
    return http


def why(error: Exception) -> str:
    """Why there is no answer that could be understood, in a few words."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return "the answer is not JSON: is there a proxy on the way that wants a login?"
    if isinstance(error, requests.exceptions.SSLError):
        return "the certificate is not valid: is there a proxy on the way?"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.RequestException):
        return f"no answer ({type(error).__name__})"
    return f"the answer is not what it should be ({type(error).__name__})"
