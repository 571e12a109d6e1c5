"""What the model's host may refuse: the token, the model, its licence, its revision."""

from collections.abc import Iterator

from components.models import models
from scripts.checks.check import TIMEOUT, Check, Finding, RefusedError, Subject, client
from scripts.download_weights import Hub, Source, StagingError, source_of
from scripts.stage_weights import refuse

NAME = "model"
TOLERANCE = 0.1
"""By which the files may be larger or smaller than the weights that the fit was reckoned with."""


def _source(subject: Subject) -> Source:
    return source_of(subject.settings.model_source.environment, subject.hugging_face_token)


def token_is_valid(subject: Subject) -> Iterator[Finding]:
    """Hugging Face knows the token, if one is configured."""
    name, source = "Hugging Face token", _source(subject)
    if not isinstance(source, Hub):
        return
    if not source.token:
        yield Finding(name, "ok", "none is configured, and an open model needs none")
        return
    with client(source.token) as http:
        answer = http.get(f"{source.endpoint}/api/whoami-v2", timeout=TIMEOUT)
        if answer.status_code in (401, 403):
            yield Finding(
                name,
                "fails",
                f"{source.endpoint} does not know it",
                f"make one that may read at {source.endpoint}/settings/tokens,"
                " then: pulumi config set --secret huggingFaceToken",
            )
        elif answer.status_code == 404:
            raise RefusedError(f"{source.endpoint} tells nobody whose a token is: it is a mirror")
        elif answer.ok:
            yield Finding(name, "ok", f"of {answer.json()['name']}")
        else:
            raise RefusedError(f"HTTP {answer.status_code} from {source.endpoint}")


def model_can_be_had(subject: Subject) -> Iterator[Finding]:
    """It is there at that revision, and its files are for the token's owner."""
    settings, source = subject.settings, _source(subject)
    with client() as http:
        try:
            about = http.get(source.about, headers=source.headers, timeout=TIMEOUT)
            if about.status_code == 401 and "X-Error-Code" not in about.headers:
                return  # the token is not known: its own check says so
            refuse(source, about)
            commit = _content(about.content, about.status_code, source)
            sample = http.head(source.sample(commit), headers=source.headers, timeout=TIMEOUT)
            refuse(source, sample)
        except StagingError as error:
            yield Finding(NAME, "fails", str(error), error.next_step)
            return
    if isinstance(source, Hub) and settings.model_revision in (None, "main"):
        told = f"{settings.model}, today at {commit[:12]}; to stay there: modelRevision {commit}"
    else:
        told = f"{settings.model} at {commit[:12]}"
    yield Finding(NAME, "ok", told)


def _content(answer: bytes, status: int, source: Source) -> str:
    if status != 200:
        raise RefusedError(f"HTTP {status} from {source.about.split('/')[2]}")
    return source.commit(answer)


def size_is_as_reckoned(subject: Subject) -> Iterator[Finding]:
    """What the hub has is as large as what the fit on the GPU was reckoned with."""
    settings, source = subject.settings, _source(subject)
    known = models().get(settings.model)
    if known is None or not isinstance(source, Hub):
        return
    with client() as http:
        answer = http.get(source.about, headers=source.headers, timeout=TIMEOUT)
        if not answer.ok:
            return  # the check before has said why
        index = f"resolve/{source.commit(answer.content)}/model.safetensors.index.json"
        url = f"{source.endpoint}/{settings.model}/{index}"
        answer = http.get(url, headers=source.headers, timeout=TIMEOUT)
        if answer.status_code in (401, 403, 404):
            return  # weights in one file have no index
        weights: int = answer.json()["metadata"]["total_size"]
    told = f"{weights / 1e9:.1f} GB of weights; the fit was reckoned with {known.weights / 1e9:.1f}"
    if abs(weights - known.weights) > TOLERANCE * known.weights:
        yield Finding(
            "model size",
            "fails",
            told,
            f"if that revision is meant, correct the line of {settings.model} in"
            " components/models.csv; else set modelRevision",
        )
    else:
        yield Finding("model size", "ok", told)


CHECKS: tuple[Check, ...] = (token_is_valid, model_can_be_had, size_is_as_reckoned)
