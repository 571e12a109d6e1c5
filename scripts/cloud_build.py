"""Builds of Google Cloud Build: submitted, found, read and cancelled by its API."""

from typing import Any

import requests

from scripts.google_api import base, call

Build = dict[str, Any]
"""https://cloud.google.com/build/docs/api/reference/rest/v1/projects.locations.builds"""

RUNNING = ("PENDING", "QUEUED", "WORKING")
PAGE = 1000
"""Entries of a log in one answer; more is not to be had."""


def submit(http: requests.Session, project: str, region: str, build: Build) -> Build:
    """Start a build; what Google made of it. GoogleError when it is refused."""
    operation = call(http, "POST", _builds(project, region), body=build)
    return operation["metadata"]["build"]


def running(http: requests.Session, project: str, region: str, tag: str) -> list[Build]:
    """Builds with this tag that have not ended, the newest first."""
    answer = call(http, "GET", _builds(project, region), parameters={"filter": f'tags="{tag}"'})
    return [it for it in answer.get("builds", ()) if it["status"] in RUNNING]


def look(http: requests.Session, name: str) -> Build:
    """How a build stands."""
    return call(http, "GET", f"{base('cloudbuild')}/v1/{name}")


def cancellation(name: str) -> str:
    """The address at which a POST ends a build."""
    return f"{base('cloudbuild')}/v1/{name}:cancel"


def _builds(project: str, region: str) -> str:
    return f"{base('cloudbuild')}/v1/projects/{project}/locations/{region}/builds"


class Log:
    """A build's log as it comes in.

    Cloud Build offers it from a bucket, or from Cloud Logging. A build that runs as an account of
    the user's own must have a bucket of its own for the former, so that it is the latter here:
    https://cloud.google.com/build/docs/securing-builds/store-manage-build-logs. The filter is the
    one of `gcloud builds log` (its api_lib/cloudbuild/logs.py).
    """

    def __init__(self, http: requests.Session, build: Build) -> None:
        self._http = http
        self._project: str = build["projectId"]
        self._filter = " AND ".join(
            (
                f'logName="projects/{self._project}/logs/cloudbuild"',
                'resource.type="build"',
                f'timestamp>="{build["createTime"]}"',
                f'resource.labels.build_id="{build["id"]}"',
            )
        )
        self._seen = set[str]()

    def news(self) -> list[str]:
        """Lines that were not there before; late ones may belong before others.

        GoogleError when the log cannot be read.
        """
        lines: list[str] = []
        page = ""
        while True:
            body = {
                "resourceNames": [f"projects/{self._project}"],
                "filter": self._filter,
                "orderBy": "timestamp asc",
                "pageSize": PAGE,
                "pageToken": page,
            }
            answer = call(self._http, "POST", f"{base('logging')}/v2/entries:list", body=body)
            for entry in answer.get("entries", ()):
                if entry["insertId"] not in self._seen:
                    self._seen.add(entry["insertId"])
                    lines += entry.get("textPayload", "").splitlines()
            page = answer.get("nextPageToken", "")
            if not page:
                return lines
