"""What goes wrong at Google."""

from rehearsal.fault_library.fault import NOT_READY, Fault, sets

RETRIES = (
    "hashicorp/terraform-provider-google, google/transport/error_retry_predicates.go: 429, 500,"
    " 502 and 503 are asked again until the operation's timeout"
)
OPERATIONS = (
    "hashicorp/terraform-provider-google, resource_compute_network.go and others: after an"
    " operation's error or timeout the id is dropped, as \"the resource didn't actually create\""
)
STOCKOUT = (
    "https://docs.cloud.google.com/compute/docs/troubleshooting/troubleshooting-vm-creation"
    "#resource_availability"
)
SPOT = "https://docs.cloud.google.com/compute/docs/instances/spot#preemption-process"
DOCKER = "https://docs.cloud.google.com/artifact-registry/quotas"
HUB = "https://huggingface.co/docs/hub/rate-limits"
IN_USE = (
    "https://docs.cloud.google.com/vpc/docs/create-modify-vpc-networks#delete-network:"
    " resourceInUseByAnotherResource while something still uses it"
)
SECRETS = "https://docs.cloud.google.com/secret-manager/docs/access-control"
CLOUD_RUN_GPUS = "https://docs.cloud.google.com/run/docs/configuring/services/gpu"

GROUP = "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager"

FAULTS = (
    # Machines that are not to be had
    Fault(
        name="quota-exceeded",
        life="The project's GPU quota in the region is 0, as in a new project.",
        source="https://docs.cloud.google.com/compute/resource-usage#gpu_quota",
        when="up",
        begin=(sets("quota-0"),),
        says=r"QUOTA_EXCEEDED",
    ),
    Fault(
        name="stockout-in-one-zone",
        life="One zone of the region has no GPU; the group goes to another.",
        source=STOCKOUT,
        when="up",
        begin=(sets("stockout-us-central1-a"),),
    ),
    Fault(
        name="stockout-everywhere",
        life="No zone of the region has a GPU.",
        source=STOCKOUT,
        when="up",
        begin=(sets("stockout"),),
        says=r"ZONE_RESOURCE_POOL_EXHAUSTED",
    ),
    Fault(
        name="machine-type-withdrawn",
        life="The zones do not offer the machine type any more.",
        source="https://docs.cloud.google.com/compute/docs/regions-zones#available",
        when="up",
        begin=(sets("machine-type-withdrawn"),),
        says=r"RESOURCE_NOT_FOUND",
    ),
    Fault(
        name="preempted-while-booting",
        life="A Spot machine is taken away while its startup script runs.",
        source=SPOT,
        when="up",
        begin=(sets("preemption:1"),),
    ),
    Fault(
        name="preempted-while-serving",
        life="A Spot machine is taken away while it serves.",
        source=SPOT,
        when="serving",
        begin=(sets("preemption:1"),),
    ),
    Fault(
        name="preempted-during-update",
        life="A Spot machine is taken away while the group replaces it.",
        source=SPOT,
        when="update",
        begin=(sets("preemption:1"),),
    ),
    # What a machine fetches
    Fault(
        name="image-pull-throttled",
        life="The registry answers 429 to the first pulls.",
        source=DOCKER,
        when="update",
        begin=(sets("throttled-pkg.dev:4"),),
    ),
    Fault(
        name="image-pull-broken",
        life="The registry answers 503 to the first pulls.",
        source=DOCKER,
        when="update",
        begin=(sets("broken-pkg.dev:4"),),
    ),
    Fault(
        name="image-pull-slow",
        life="The registry takes its time with every answer.",
        source="nothing found: played as seconds before each answer",
        when="update",
        begin=(sets("slow-pkg.dev:4"),),
    ),
    Fault(
        name="registry-denied",
        life="The machine's account may not read the repository.",
        source="https://docs.cloud.google.com/artifact-registry/docs/access-control",
        when="update",
        begin=(sets("denied-pkg.dev"),),
        says=NOT_READY,
    ),
    Fault(
        name="secret-denied",
        life="The machine's account may not read the tunnel's token.",
        source=SECRETS,
        when="update",
        begin=(sets("denied-secretmanager.googleapis.com"),),
        says=NOT_READY,
    ),
    Fault(
        name="secret-manager-broken",
        life="Secret Manager answers 503 for a while.",
        source="https://docs.cloud.google.com/secret-manager/docs/reference/rest",
        when="update",
        begin=(sets("broken-secretmanager.googleapis.com:3"),),
    ),
    Fault(
        name="metadata-server-slow",
        life="The metadata server takes its time.",
        source="https://docs.cloud.google.com/compute/docs/troubleshooting/"
        "troubleshoot-metadata-server",
        when="update",
        begin=(sets("slow-metadata:4"),),
    ),
    Fault(
        name="metadata-server-broken",
        life="The metadata server answers 503 for a while.",
        source="https://docs.cloud.google.com/compute/docs/troubleshooting/"
        "troubleshoot-metadata-server: to be asked again",
        when="update",
        begin=(sets("broken-metadata:3"),),
    ),
    Fault(
        name="nat-late",
        life="The NAT comes minutes after all else.",
        source="nothing found: played as four minutes more",
        when="up",
        begin=(sets("late-create-RouterNat:1"),),
    ),
    # Weights
    Fault(
        name="hub-throttles",
        life="The hub answers 429 to the first requests.",
        source=HUB,
        when="up",
        begin=(sets("hub-busy:3"),),
    ),
    Fault(
        name="download-breaks-off",
        life="Downloads of weights end in the middle.",
        source="https://github.com/huggingface/huggingface_hub/issues/3160",
        when="up",
        begin=(sets("hub-breaks-off:3"),),
    ),
    Fault(
        name="weights-damaged-on-the-way",
        life="A byte of the weights is wrong.",
        source="nothing found: what the hash of every file is compared for",
        when="up",
        begin=(sets("hub-wrong-byte:1"),),
    ),
    Fault(
        name="upload-breaks-off",
        life="Cloud Storage loses the connection in the middle of an upload.",
        source="https://docs.cloud.google.com/storage/docs/resumable-uploads#handling_errors",
        when="up",
        begin=(sets("upload-breaks-off:3"),),
    ),
    Fault(
        name="licence-not-accepted",
        life="The model is gated, and the token's owner has not accepted its licence.",
        source="https://huggingface.co/docs/hub/models-gated",
        when="up",
        config={"model": "meta-llama/Llama-3.1-8B-Instruct"},
        begin=(sets("hub-licence"),),
        says=r"licen[cs]e",
    ),
    # Operations of the APIs
    Fault(
        name="permission-missing",
        life="Whoever deploys may create most things, and not the NAT.",
        source="https://docs.cloud.google.com/compute/docs/access/iam",
        when="up",
        begin=(sets("denied-create-RouterNat"),),
        says=r"Error 403",
    ),
    Fault(
        name="api-not-propagated",
        life="An API was enabled a moment ago, and its service does not know yet.",
        source="https://docs.cloud.google.com/service-usage/docs/enable-disable"
        " (the message itself says so)",
        when="up",
        begin=(sets("unpropagated-create-Network:1"),),
        says=r"wait a few minutes",
    ),
    Fault(
        name="rate-limited",
        life="Google answers 429 for a while, to whatever is created.",
        source=RETRIES,
        when="up",
        begin=(sets("throttled-create-any:20"),),
    ),
    Fault(
        name="services-broken",
        life="Google answers 503 for a while, to whatever is created.",
        source=RETRIES,
        when="up",
        begin=(sets("broken-create-any:20"),),
    ),
    Fault(
        name="service-stays-broken",
        life="Google answers 503 to every creation of a subnet, until the plugin gives up.",
        source=RETRIES,
        when="up",
        begin=(sets("broken-create-Subnetwork"),),
        says=r"Error 503",
    ),
    Fault(
        name="operation-fails",
        life="The creation of a firewall rule begins, and ends in an error.",
        source=OPERATIONS,
        when="up",
        begin=(sets("failed-create-Firewall:1"),),
        says=r"Error waiting to create",
    ),
    Fault(
        name="operation-never-ends",
        life="The creation of the network begins, and nobody hears that it is done.",
        source=OPERATIONS,
        when="up",
        begin=(sets("endless-create-Network:1"),),
        says=r"timeout while waiting",
        leaves=r"Network$",
    ),
    Fault(
        name="group-creation-never-ends",
        life="The creation of the group of machines is not confirmed in time.",
        source="hashicorp/terraform-provider-google,"
        " resource_compute_region_instance_group_manager.go: the id is set before the wait",
        when="up",
        begin=(sets("endless-create-RegionInstanceGroupManager:1"),),
        says=r"timeout while waiting",
    ),
    Fault(
        name="update-fails",
        life="The group's update begins, and ends in an error.",
        source=OPERATIONS,
        when="update",
        begin=(sets("failed-update-RegionInstanceGroupManager:1"),),
        says=r"Internal error",
    ),
    Fault(
        name="update-never-ends",
        life="The group's update is not confirmed in time.",
        source=OPERATIONS,
        when="update",
        begin=(sets("endless-update-RegionInstanceGroupManager:1"),),
        says=r"timeout while waiting",
    ),
    # Deletion
    Fault(
        name="subnet-held",
        life="Google still counts something in the subnet, and refuses to delete it.",
        source=IN_USE,
        when="destroy",
        begin=(sets("held-delete-Subnetwork:1"),),
        says=r"resourceInUseByAnotherResource",
    ),
    Fault(
        name="network-held",
        life="Google still counts something in the network, and refuses to delete it.",
        source=IN_USE,
        when="destroy",
        begin=(sets("held-delete-Network:1"),),
        says=r"resourceInUseByAnotherResource",
    ),
    Fault(
        name="deletion-throttled",
        life="Google answers 429 for a while, to whatever is deleted.",
        source=RETRIES,
        when="destroy",
        begin=(sets("throttled-delete-any:20"),),
    ),
    Fault(
        name="deletion-never-ends",
        life="The deletion of the group is not confirmed in time.",
        source=OPERATIONS,
        when="destroy",
        begin=(sets("endless-delete-RegionInstanceGroupManager:1"),),
        says=r"timeout while waiting",
    ),
    Fault(
        name="deletion-denied",
        life="Whoever destroys may not delete secrets.",
        source=SECRETS,
        when="destroy",
        begin=(sets("denied-delete-Secret"),),
        says=r"Error 403",
    ),
    # Cloud Run
    Fault(
        name="cloud-run-quota-exceeded",
        life="The project has no quota for Cloud Run's GPUs.",
        source=f"{CLOUD_RUN_GPUS}#request-quota",
        when="up",
        stack="cloud-run",
        begin=(sets("cloud-run-quota-0"),),
        says=r"[Qq]uota",
    ),
    Fault(
        name="cloud-run-stockout",
        life="Cloud Run has no GPU left for a new instance.",
        source=CLOUD_RUN_GPUS,
        when="up",
        stack="cloud-run",
        begin=(sets("cloud-run-stockout"),),
        says=r"GPU|nvidia-l4",
    ),
    Fault(
        name="cloud-run-deployment-fails",
        life="The service's deployment is refused with 503 until the plugin gives up.",
        source="measured: HTTP 500 on a create is asked again for more than three minutes",
        when="up",
        stack="cloud-run",
        begin=(sets("broken-create-Service"),),
        says=r"Error 503",
    ),
)
