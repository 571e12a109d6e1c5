"""Where an operator looks and what they type: plain functions of the stack's names."""

from typing import NamedTuple
from urllib.parse import quote

import pulumi

from components.settings import Settings


class Links(NamedTuple):
    """What an operator pastes into a shell or a browser."""

    ssh_command: pulumi.Output[str]
    logs_url: str
    console_url: pulumi.Output[str]


def links(settings: Settings, machine_name: str, group: pulumi.Input[str]) -> Links:
    """Those of a stack, and of its group of machines."""
    project, region = settings.project, settings.region
    return Links(
        ssh_command(project, region, group),
        logs_url(project, machine_name),
        console_url(settings.platform, project, region, group),
    )


def ssh_command(project: str, region: str, group: pulumi.Input[str]) -> pulumi.Output[str]:
    """A shell line that opens SSH, through Identity-Aware Proxy, on a machine of the group."""
    return pulumi.Output.concat(
        "gcloud compute ssh --tunnel-through-iap",
        " $(gcloud compute instance-groups managed list-instances ",
        group,
        f" --project={project} --region={region} --limit=1 --uri)",
    )


def logs_url(project: str, machine_name: str) -> str:
    """Cloud Logging, filtered to what the stack's machines, services and jobs write."""
    machines = (
        f'logName="projects/{project}/logs/serialconsole.googleapis.com%2Fserial_port_1_output"'
        ' AND labels."compute.googleapis.com/resource_name"'
        f'=~"^{machine_name}(-connector)?-[a-z0-9]{{4}}$"'
    )
    services = f'resource.labels.service_name=~"^{machine_name}-service-[a-z0-9]{{7}}$"'
    jobs = f'resource.labels.job_name=~"^{machine_name}-staging-[a-z0-9]{{7}}$"'
    query = f"({machines}) OR {services} OR {jobs}"
    page = f"https://console.cloud.google.com/logs/query;query={quote(query, safe='')}"
    return f"{page}?project={project}"


def console_url(
    platform: str, project: str, region: str, group: pulumi.Input[str]
) -> pulumi.Output[str]:
    """Google's console: the group of machines, or the project's services on Cloud Run."""
    if platform == "cloud-run":
        return pulumi.Output.from_input(f"https://console.cloud.google.com/run?project={project}")
    return pulumi.Output.concat(
        f"https://console.cloud.google.com/compute/instanceGroups/details/{region}/",
        group,
        f"?project={project}",
    )
