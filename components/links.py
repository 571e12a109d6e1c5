"""Where an operator looks and what they type: plain functions of the stack's names."""

from urllib.parse import quote

import pulumi


def ssh_command(project: str, region: str, group: pulumi.Input[str]) -> pulumi.Output[str]:
    """A shell line that opens SSH, through Identity-Aware Proxy, on a machine of the group."""
    return pulumi.Output.concat(
        "gcloud compute ssh --tunnel-through-iap",
        " $(gcloud compute instance-groups managed list-instances ",
        group,
        f" --project={project} --region={region} --limit=1 --uri)",
    )


def logs_url(project: str, machine_name: str) -> str:
    """Cloud Logging, filtered to what the stack's machines write to their serial port."""
    query = (
        f'logName="projects/{project}/logs/serialconsole.googleapis.com%2Fserial_port_1_output"\n'
        f'labels."compute.googleapis.com/resource_name"=~"^{machine_name}-[a-z0-9]{{4}}$"'
    )
    page = f"https://console.cloud.google.com/logs/query;query={quote(query, safe='')}"
    return f"{page}?project={project}"


def console_url(project: str, region: str, group: pulumi.Input[str]) -> pulumi.Output[str]:
    """The instance group in Google's console: machines, errors, monitoring."""
    return pulumi.Output.concat(
        f"https://console.cloud.google.com/compute/instanceGroups/details/{region}/",
        group,
        f"?project={project}",
    )
