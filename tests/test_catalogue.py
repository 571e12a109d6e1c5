"""The catalogue of GPUs: what a stack can be offered, and what it costs."""

import csv
import re
from pathlib import Path

import pytest

from components import catalogue

FOLDER = Path(catalogue.__file__).parent
MACHINES = [machine for gpu in catalogue.gpus() for machine in catalogue.machines(gpu)]


def table(name: str) -> list[dict[str, str]]:
    """The rows of one of the catalogue's files."""
    return list(csv.DictReader((FOLDER / f"{name}.csv").read_text().splitlines()))


PRICES = table("prices")


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


# --- the tables hold together ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["accelerators", "models", "prices"])
def test_every_figure_has_a_source_and_a_date(name: str) -> None:
    """Whoever doubts a figure can look where it is from, and how old it is."""
    for row in table(name):
        assert row["source"]
        assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", row["date"])


def test_the_tables_name_the_same_gpus() -> None:
    """A GPU that one file has, the others have, but for Cloud Run, which has two."""
    gpus = {row["gpu"] for row in table("accelerators")}

    assert set(catalogue.gpus()) == gpus
    assert {row["gpu"] for row in table("zones")} == gpus
    assert {row["gpu"] for row in table("cloud_run_gpus")} == {
        gpu for gpu in gpus if catalogue.gpu(gpu).cloud_run
    }


def test_zones_lie_in_regions() -> None:
    """A zone is a region's name and a letter, and comes once for each GPU."""
    rows = [(row["gpu"], row["zone"]) for row in table("zones")]

    assert len(set(rows)) == len(rows)
    assert all(re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", zone) for _, zone in rows)
    assert all(
        re.fullmatch(r"[a-z]+-[a-z]+\d+", region)
        for gpu in catalogue.gpus()
        for region in [*catalogue.regions(gpu), *catalogue.cloud_run_regions(gpu)]
    )


@pytest.mark.parametrize("gpu", catalogue.gpus())
def test_a_gpu_is_described_wholly(gpu: str) -> None:
    """CUDA sees a little less memory than was sold; a quota has a name of its own or a family."""
    found = catalogue.gpu(gpu)

    assert 0.9 * found.memory_gib < found.usable_gib < found.memory_gib
    assert bool(found.quota) != bool(found.quota_family)
    assert found.spot_quota.startswith("PREEMPTIBLE_NVIDIA_")
    assert found.product


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.machine_type)
def test_a_machine_is_what_its_name_says(machine: catalogue.Machine) -> None:
    """Google's names tell vCPUs (g2-standard-8) or GPUs (a3-highgpu-8g)."""
    number = int(re.findall(r"-(\d+)g?$", machine.machine_type)[0])

    assert number == (machine.count if machine.machine_type.endswith("g") else machine.vcpus)
    assert machine.ram_gb / machine.vcpus >= 3.75
    assert machine.memory_gib == catalogue.gpu(machine.gpu).memory_gib


def test_larger_machines_are_multiples_of_the_smallest() -> None:
    """Within a series, vCPUs, memory and disks grow with the GPUs."""
    for gpu in catalogue.gpus():
        series = [
            m for m in catalogue.machines(gpu) if m.machine_type.startswith(("a2-", "a3-high"))
        ]
        for machine in series:
            share = machine.count / series[0].count
            if machine.machine_type.startswith("a2-mega"):  # half the vCPUs a GPU
                continue
            assert machine.vcpus == series[0].vcpus * share
            assert machine.ram_gb == series[0].ram_gb * share
            assert machine.local_ssd_gb == series[0].local_ssd_gb * share


def test_spot_is_cheaper_than_standard_terms() -> None:
    """In every region of which both prices are known."""
    spot, standard = (
        {
            (row["item"], row["gpus"], row["region"]): float(row["usd"])
            for row in PRICES
            if row["terms"] == terms
        }
        for terms in ("spot", "standard")
    )
    both = spot.keys() & standard.keys()

    assert len(both) > 20
    assert all(0 < spot[what] < standard[what] for what in both)


@pytest.mark.parametrize("row", PRICES, ids=lambda row: " ".join([*row.values()][:4]))
def test_a_price_is_of_something_that_can_be_had(row: dict[str, str]) -> None:
    """A machine with that many GPUs, on those terms, in that region; or a part of Cloud Run's; or
    something without a GPU."""
    if row["gpus"] == "0":
        assert row["per"] in ("hour", "month", "GiB-month", "GiB")
        return
    assert row["per"] == "hour"
    if row["item"].startswith("cloud-run:"):
        part = row["item"].split(":")[1]
        assert part in ("vcpu", "gib") or row["region"] in catalogue.cloud_run_regions(part)
        return
    (machine,) = (
        machine
        for machine in MACHINES
        if (machine.machine_type, machine.count) == (row["item"], int(row["gpus"]))
    )
    assert row["terms"] in machine.offers
    assert row["region"] in catalogue.regions(machine.gpu)


def test_prices_come_once() -> None:
    """A second price of the same thing would be silently lost."""
    keys = [(row["item"], row["gpus"], row["region"], row["terms"]) for row in PRICES]

    assert len(set(keys)) == len(keys)


def test_more_gpus_cost_about_as_much_apiece() -> None:
    """A slip of the decimal point would show."""
    for machine in MACHINES:
        for terms in ("standard", "spot"):
            smallest = catalogue.machines(machine.gpu)[0]
            one = catalogue.price(smallest.machine_type, smallest.count, terms)
            price = catalogue.price(machine.machine_type, machine.count, terms)
            if one and price:
                apiece = price.usd / machine.count
                assert 0.7 < apiece / (one.usd / smallest.count) < 2.1


def test_a_price_is_a_regions_own_where_it_is_known() -> None:
    """Elsewhere it is us-central1's, and says so; what nobody could source has none."""
    here = catalogue.price("g2-standard-8", 1, "spot", "europe-west4")
    usual = catalogue.price("g2-standard-8", 1, "spot")
    elsewhere = catalogue.price("g2-standard-48", 4, "spot", "europe-west4")

    assert here
    assert usual
    assert elsewhere
    assert [price.region for price in (here, usual, elsewhere)] == [
        "europe-west4",
        "us-central1",
        "us-central1",
    ]
    assert here.usd != usual.usd
    assert catalogue.price("n1-standard-8", 1, "spot") is None


def test_cloud_run_bills_cpu_and_memory_besides_the_gpu() -> None:
    """An L4 with the least that it comes with: 4 vCPUs and 16 GiB."""
    price = catalogue.cloud_run_price("nvidia-l4")

    assert price
    assert price.usd == pytest.approx(0.67212 + 4 * 0.0648 + 16 * 0.0072)
    assert catalogue.cloud_run_price("nvidia-b200") is None
