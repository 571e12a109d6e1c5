"""What goes wrong at Google."""

from rehearsal.fault_library.fault import Fault, sets

RETRIES = (
    "hashicorp/terraform-provider-google, google/transport/error_retry_predicates.go: 429, 500,"
    " 502 and 503 are asked again until the operation's timeout"
)
OPERATIONS = (
    "hashicorp/terraform-provider-google, e.g. resource_compute_network.go: after an operation's"
    ' error or timeout "the resource didn\'t actually create", and its id is dropped'
)
STOCKOUT = (
    "https://docs.cloud.google.com/compute/docs/troubleshooting/troubleshooting-vm-creation"
    "#resource_availability"
)

FAULTS = (
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
        name="permission-missing",
        life="Whoever deploys may create most things, and not the NAT.",
        source="https://docs.cloud.google.com/compute/docs/access/iam",
        when="up",
        begin=(sets("denied-create-RouterNat"),),
        says=r"Error 403",
    ),
    Fault(
        name="rate-limited",
        life="Google answers 429 for a while, to whatever is asked.",
        source=RETRIES,
        when="up",
        begin=(sets("throttled-create-any:20"),),
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
        name="preempted-while-serving",
        life="A Spot machine is taken away while it serves.",
        source="https://docs.cloud.google.com/compute/docs/instances/spot#preemption-process",
        when="serving",
        begin=(sets("preemption:1"),),
    ),
)
