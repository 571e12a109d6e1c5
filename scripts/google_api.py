"""Google's REST APIs, called with the credentials of whoever deploys.

For scripts that `pulumi up` or a person runs. Credentials are Application Default Credentials, as
pulumi-gcp uses them: `gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any, cast

import google.auth
import requests
from google.auth.credentials import Credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT = (10.0, 20.0)
"""Seconds to connect, and to wait for more of an answer."""
RETRIES = 4
BACKOFF_SECONDS = 0.5
"""Pause before the second retry; each is twice the one before, or what Google asks for."""
LOG_IN = "gcloud auth application-default login"

NEXT_STEPS = {
    401: LOG_IN,
    403: "let somebody with the role Owner give your account the roles that the README lists",
    404: "compare gcp:project and gcp:region with Google's console",
    429: "try again in a minute, or ask for more quota: https://console.cloud.google.com/iam-admin/quotas",
}
"""HTTP status -> what the person can do about it."""
PAY = "link a billing account to the project: https://console.cloud.google.com/billing/projects"
LATER = "try again: pulumi up"
NO_ADDRESS = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
)
CHECK_NETWORK = "check the network of this machine, then try again"


class GoogleError(Exception):
    """Google said no, or nothing. `status` is the HTTP status, None when no answer came.

    `reasons` are Google's short words for why (`SERVICE_DISABLED`). There are none where the
    answer was not Google's, whatever its status.
    """

    def __init__(
        self,
        message: str,
        status: int | None,
        next_step: str,
        reasons: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(f"{message}\n  next: {next_step}")
        self.message = message
        self.status = status
        self.next_step = next_step
        self.reasons = reasons


def base(service: str) -> str:
    """The address of an API, such as `storage`, without a path.

    CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE names another host, as for gcloud, which wants a path
    for some APIs.
    """
    override = os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}")
    return "/".join((override or f"https://{service}.googleapis.com").split("/")[:3])


def credentials() -> Credentials:
    """Whoever deploys, to Google. GoogleError when there are no credentials."""
    # Whoever calls names the project; that the credentials have none of their own is no matter.
    logging.getLogger("google.auth").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            return cast("Any", google.auth.default(scopes=[SCOPE]))[0]  # pyright: ignore[reportUnknownMemberType]  # untyped
    except (DefaultCredentialsError, OSError) as error:
        reason = _first(error) if isinstance(error, DefaultCredentialsError) else str(error)
        message = f"no credentials for Google's APIs: {reason.splitlines()[0]}"
        raise GoogleError(message, None, LOG_IN) from None
    except (AttributeError, LookupError, TypeError, ValueError):  # google-auth trips over the file
        message = (
            "no credentials for Google's APIs: GOOGLE_APPLICATION_CREDENTIALS names no such file"
        )
        raise GoogleError(message, None, LOG_IN) from None


def session(retries: int = RETRIES, whose: Credentials | None = None) -> requests.Session:
    """An HTTP client that signs its requests. GoogleError when there are no credentials.

    It tries again where that is safe: connections that fail, and 429 and 5xx unless the request
    is a POST.
    """
    http = AuthorizedSession(whose or credentials())
    retry = Retry(
        total=retries,
        backoff_factor=BACKOFF_SECONDS,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,  # the answer says more than an exception of urllib3's
    )
    for scheme in ("https://", "http://"):
        http.mount(scheme, HTTPAdapter(max_retries=retry))
    return http


def call(
    http: requests.Session,
    method: str,
    url: str,
    *,
    body: Any = None,
    parameters: Mapping[str, Any] | None = None,
) -> Any:
    """The JSON of one call's answer, None where it is empty. GoogleError when Google refuses."""
    try:
        answer = http.request(method, url, json=body, params=parameters, timeout=TIMEOUT)
    except TransportError as error:
        raise _silence(url, error) from None
    except GoogleAuthError as error:
        message = f"Google does not accept the credentials: {_first(error)}"
        raise GoogleError(message, 401, LOG_IN) from None
    except NO_ADDRESS:
        message = f"{url} is no address; CLOUDSDK_API_ENDPOINT_OVERRIDES_... names its beginning"
        raise GoogleError(message, None, "unset that variable, or set an address") from None
    except requests.RequestException as error:
        raise _silence(url, error) from None
    if not answer.ok:
        raise refusal(answer)
    try:
        return answer.json() if answer.content else None
    except ValueError:
        message = f"{_host(url)} answered something that is not JSON: is there a proxy on the way?"
        raise GoogleError(message, None, CHECK_NETWORK) from None


def refusal(answer: requests.Response) -> GoogleError:
    """What Google's answer of 4xx or 5xx says, and what to do about it."""
    try:
        said: dict[str, Any] = answer.json()["error"]
        message = f"{said['message']} (HTTP {answer.status_code})"
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {answer.status_code} {answer.reason} from {_host(answer.url)}"
        said = {}
    listed = (it for key in ("errors", "details") for it in said.get(key) or ())
    reasons = {it.get("reason") for it in listed} | {said.get("status")}
    next_step = NEXT_STEPS.get(answer.status_code, LATER)
    if reasons & {"accessNotConfigured", "SERVICE_DISABLED"}:
        next_step = f"gcloud services enable {_host(answer.url)}, then wait a minute"
    if "BILLING_DISABLED" in reasons:
        next_step = PAY
    known = frozenset(str(reason) for reason in reasons if reason)
    return GoogleError(message, answer.status_code, next_step, known)


def _silence(url: str, error: Exception) -> GoogleError:
    message = f"no answer from {_host(url)} ({type(error).__name__})"
    return GoogleError(message, None, CHECK_NETWORK)


def _first(error: Exception) -> str:
    """google-auth gives its errors several arguments; the first is the sentence."""
    return str(error.args[0] if error.args else error)


def _host(url: str) -> str:
    return url.split("/")[2]
