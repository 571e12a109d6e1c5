"""The catalogue of GPUs: what a stack can be offered."""

import pytest

from components import catalogue


@pytest.mark.parametrize("gpu", catalogue.gpus())
def test_every_gpu_can_be_had(gpu: str) -> None:
    """A GPU in the catalogue has a machine, a zone and terms, and vLLM's image runs on it."""
    machines = catalogue.machines(gpu)

    assert catalogue.zones(gpu)
    assert catalogue.regions(gpu)
    assert machines
    for machine in machines:
        assert machine.offers
        assert machine.compute_capability >= (7, 5)  # the oldest that vLLM's image is built for


def test_the_usual_machine_for_one_l4_has_memory_to_load_a_model() -> None:
    """g2-standard-8 (32 GB) comes before the cheaper g2-standard-4 (16 GB)."""
    assert catalogue.machines("nvidia-l4")[0].machine_type == "g2-standard-8"


@pytest.mark.parametrize(
    ("machine_type", "count", "offers"),
    [
        ("g2-standard-8", 1, {"spot", "standard", "flex-start"}),
        ("n1-standard-8", 1, {"spot", "standard"}),
        ("a3-highgpu-1g", 1, {"spot", "flex-start"}),
        ("a3-highgpu-8g", 8, {"spot", "standard", "flex-start"}),
        ("a3-ultragpu-8g", 8, {"spot", "flex-start"}),
        ("a4-highgpu-8g", 8, {"spot", "flex-start"}),
        ("g4-standard-48", 1, {"spot", "standard"}),
    ],
)
def test_machines_are_offered_on_googles_terms(
    machine_type: str, count: int, offers: set[str]
) -> None:
    """Small H100, H200 and B200 machines are not sold on demand; N1 and G4 not as flex-start."""
    found = [
        machine
        for gpu in catalogue.gpus()
        for machine in catalogue.machines(gpu)
        if (machine.machine_type, machine.count) == (machine_type, count)
    ]

    assert [machine.offers for machine in found] == [offers]


def test_only_a_t4_is_attached() -> None:
    """An N1 machine must ask for its GPU; in all others it is part of the machine type."""
    attached = {
        gpu for gpu in catalogue.gpus() for machine in catalogue.machines(gpu) if machine.attached
    }

    assert attached == {"nvidia-tesla-t4"}


def test_what_is_not_in_the_catalogue_has_nothing() -> None:
    """An unknown GPU has no machines and no zones, rather than an error."""
    assert catalogue.machines("nvidia-tesla-v100") == ()
    assert catalogue.zones("nvidia-tesla-v100") == ()
    assert catalogue.regions("nvidia-tesla-v100") == ()


def test_regions_of_any_gpu_are_all_regions() -> None:
    """Without a GPU, the regions of every GPU are meant."""
    every = {region for gpu in catalogue.gpus() for region in catalogue.regions(gpu)}

    assert set(catalogue.regions()) == every
