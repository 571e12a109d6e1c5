"""HTTP clients for threads, which cannot share one."""

import threading
from collections.abc import Callable

import requests


class Sessions:
    """Clients that are alike, one a thread, made when it is first needed."""

    def __init__(self, make: Callable[[], requests.Session]) -> None:
        self._make = make
        self._here = threading.local()
        self._all: list[requests.Session] = []

    def mine(self) -> requests.Session:
        """This thread's."""
        if not hasattr(self._here, "http"):
            self._here.http = self._make()
            self._all.append(self._here.http)
        return self._here.http

    def close(self) -> None:
        """Close every connection."""
        for http in self._all:
            http.close()
