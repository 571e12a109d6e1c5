"""A managed instance group as Google tells of it: its machines, and why it gets none."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import requests

from scripts import boot_phases
from scripts.boot_phases import Phase
from scripts.google_api import GoogleError, base, call


class Machine(NamedTuple):
    """A machine of the group."""

    name: str
    zone: str
    status: str
    """PROVISIONING, STAGING, RUNNING ...; empty before there is an instance."""
    template: str
    """The path of the template that it was made from."""


class Failure(NamedTuple):
    """A machine that could not be made."""

    zone: str
    code: str
    """ZONE_RESOURCE_POOL_EXHAUSTED, QUOTA_EXCEEDED ..."""
    message: str
    template: str
    at: datetime


@dataclass(frozen=True)
class MachineGroup:
    """A regional group. Every method asks Google, and raises GoogleError when it refuses."""

    http: requests.Session
    project: str
    region: str
    name: str

    @property
    def _projects(self) -> str:
        return f"{base('compute')}/compute/v1/projects/{self.project}"

    @property
    def _url(self) -> str:
        return f"{self._projects}/regions/{self.region}/instanceGroupManagers/{self.name}"

    def template(self) -> str:
        """The path of the template that new machines are made from."""
        return _path(call(self.http, "GET", self._url)["versions"][-1]["instanceTemplate"])

    def zones(self) -> list[str]:
        """Where it looks for machines."""
        policy = call(self.http, "GET", self._url).get("distributionPolicy", {})
        return [_last(it["zone"]) for it in policy.get("zones") or ()]

    def machines(self) -> list[Machine]:
        """Its machines, also those that are being made."""
        return [
            Machine(
                name=_last(it["instance"]),
                zone=_zone(it["instance"]),
                status=it.get("instanceStatus", ""),
                template=_path(it.get("version", {}).get("instanceTemplate", "")),
            )
            for it in self._pages("POST", "listManagedInstances", "managedInstances")
        ]

    def failures(self) -> list[Failure]:
        """Machines that could not be made, as far back as Google remembers."""
        found: list[Failure] = []
        for it in self._pages("GET", "listErrors", "items"):
            about: dict[str, Any] = it.get("instanceActionDetails") or {}
            found.append(
                Failure(
                    zone=_zone(about.get("instance", "")),
                    code=it["error"]["code"],
                    message=it["error"]["message"],
                    template=_path(about.get("version", {}).get("instanceTemplate", "")),
                    at=datetime.fromisoformat(it["timestamp"]),
                )
            )
        return found

    def phases(self, machine: Machine) -> list[Phase]:
        """What a machine reports of its boot; nothing before it has."""
        url = f"{self._projects}/zones/{machine.zone}/instances/{machine.name}/getGuestAttributes"
        asked = {"queryPath": f"{boot_phases.NAMESPACE}/"}
        try:
            answer = call(self.http, "GET", url, parameters=asked)
        except GoogleError as error:
            if error.status == 404:
                return []
            raise
        items: list[dict[str, str]] = answer.get("queryValue", {}).get("items") or []
        values = [it["value"] for it in items if it["key"] == boot_phases.KEY]
        return boot_phases.parse(values[0]) if values else []

    def created(self, machine: Machine) -> datetime:
        """When a machine's creation began."""
        url = f"{self._projects}/zones/{machine.zone}/instances/{machine.name}"
        return datetime.fromisoformat(call(self.http, "GET", url)["creationTimestamp"])

    def _pages(self, method: str, verb: str, key: str) -> Iterator[dict[str, Any]]:
        page = ""
        while True:
            answer: dict[str, Any] = call(
                self.http, method, f"{self._url}/{verb}", parameters={"pageToken": page}
            )
            yield from answer.get(key) or ()
            page = answer.get("nextPageToken") or ""
            if not page:
                return


def _path(link: str) -> str:
    """`projects/...` of a link, whichever host and version it names."""
    return link[link.find("projects/") :] if "projects/" in link else ""


def _last(link: str) -> str:
    return link.rpartition("/")[2]


def _zone(link: str) -> str:
    found = re.search("/zones/([^/]+)", link)
    return found[1] if found else ""
