"""How a cloud says no, and how the rehearsal does."""

from typing import Any


class CloudError(Exception):
    """A refusal by a cloud's service.

    `code` is the HTTP status, `reason` the service's own short word
    (Google: `resourceInUseByAnotherResource`; Cloudflare: its error number),
    `message` what the service writes to a person.
    """

    def __init__(self, code: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason


class OperationFailed(CloudError):
    """A long operation that failed after it had begun: the resource exists, and does not work.

    `code` is a gRPC status, as Google's operations have it; `id` and `outputs` are what exists.
    """

    def __init__(self, code: int, message: str, id: str, outputs: dict[str, Any]) -> None:
        super().__init__(code, message)
        self.id = id
        self.outputs = outputs


class RehearsalError(Exception):
    """The rehearsal cannot go on; the message says why and what the person can do."""
