"""The metadata server of an instance of Cloud Run, which has less to tell than a VM's.

Its paths: docs.cloud.google.com/run/docs/container-contract#metadata-server.
"""

from rehearsal.google.cloud_run.workload import Workload
from rehearsal.google.identity import CLOUD_PLATFORM, Identity
from rehearsal.google.metadata import Directory, MetadataServer
from rehearsal.world import World


class CloudRunMetadata(MetadataServer):
    """Answers one instance."""

    _guest_can_write = False

    def __init__(self, world: World, identity: Identity, workload: Workload, id: str) -> None:
        super().__init__(world, identity, id)
        self._workload = workload

    def _tree(self) -> Directory:
        project = self._workload.project
        number = self._world.accounts.projects[project]
        account = {"email": self._workload.caller.email, "scopes": [CLOUD_PLATFORM]}
        return {
            "instance": {
                "id": self._instance,
                "region": f"projects/{number}/regions/{self._workload.region}",
                "service-accounts": self._service_accounts(account),
            },
            "project": {"numeric-project-id": number, "project-id": project},
        }
