"""Cloud Run: services that wake when they are called, jobs that run to their end."""

SERVICE = "gcp:cloudrunv2/service:Service"
JOB = "gcp:cloudrunv2/job:Job"

REVISION = "google:cloud_run_revision"
"""A revision of a service: `service` (its id), `name`, `template`, `ready`."""
INSTANCE = "google:cloud_run_instance"
"""A running instance: `owner` (id of the service or job), `name`, `region`, `gpu` (`type`,
`zonalRedundancy`, or null), `startTime`."""
EXECUTION = "google:cloud_run_execution"
"""An execution of a job, as the API answers it."""
TASK = "google:cloud_run_task"
"""A task of an execution, as the API answers it."""
OPERATION = "google:cloud_run_operation"
"""What jobs:run answered: `execution` (its name)."""
