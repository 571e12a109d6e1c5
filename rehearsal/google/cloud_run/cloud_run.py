"""The whole of Cloud Run: its services, its jobs, and its two sites."""

from rehearsal.google.cloud_run import api, front_end
from rehearsal.google.cloud_run.api import AdminApi
from rehearsal.google.cloud_run.front_end import FrontEnd
from rehearsal.google.cloud_run.jobs import Jobs
from rehearsal.google.cloud_run.platform import Platform
from rehearsal.google.cloud_run.services import Services
from rehearsal.internet import Internet


class CloudRun:
    """Runs what the store declares, and answers at run.googleapis.com and *.run.app."""

    def __init__(self, platform: Platform, internet: Internet) -> None:
        self.services = Services(platform)
        self.jobs = Jobs(platform)
        world, identity = platform.world, platform.around.identity
        answer = FrontEnd(world, identity, self.services).handle
        internet.site(api.HOST, AdminApi(world, identity, self.jobs).handle)
        internet.site(front_end.HOSTS, answer, names=self.services.hosts, any_host=True)
        # A host of nobody's resolves as well, and is answered with 404.
        internet.site(front_end.HOSTS, answer, any_host=True)

    def start(self) -> None:
        """Follow the store from now on."""
        self.services.start()
        self.jobs.start()

    async def close(self) -> None:
        """End every instance at once; what is declared stays."""
        await self.services.close()
        await self.jobs.close()
