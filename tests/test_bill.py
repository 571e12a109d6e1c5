"""What a stack costs: the cost card, `./scripts/cost`, and the line that `pulumi up` prints."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.bill import Bill, bill
from components.settings import Settings
from scripts import cost, stack_file
from tests import compare_costs
from tests.conftest import Deploy
from tests.stack_config import STACKS, configuration

MONTH = 730
GIB = 2**30


def settings(stack: str, **changes: str) -> Settings:
    """A committed stack's settings, with some of its keys changed."""
    own = {f"llm-endpoint:{name}": value for name, value in changes.items()}
    return Settings.parse(configuration(stack, own), secret={"cloudflare:apiToken"})


def billed(stack: str, **changes: str) -> Bill:
    """Its bill, with the tunnel's token as its only secret."""
    return bill(settings(stack, **changes), secrets=1)


def test_dev_costs_what_its_parts_cost() -> None:
    """One L4 on Spot in us-central1, reckoned by hand from the prices' sources."""
    machine = 0.3406  # g2-standard-8 on Spot: skypilot-catalog v8
    disk = 100 * 0.10 / MONTH  # pd-balanced: cloud.google.com/compute/disks-image-pricing
    nat = 0.0014 + 0.005  # a machine, an address: cloud.google.com/nat/pricing
    traffic = 1 * (0.12 + 0.045) / MONTH  # a GiB to the internet; through NAT
    images = 12 * 0.10  # a month: cloud.google.com/artifact-registry/pricing
    weights = 8_044_936_192 / GIB * 0.02  # Qwen3-4B: cloud.google.com/storage/pricing
    secret = 0.06  # cloud.google.com/secret-manager/pricing

    card = billed("dev").card

    serving, idle = machine + disk + nat + traffic, images + weights + secret
    assert card["usdPerHour"] == pytest.approx(serving + idle / MONTH, abs=1e-4)
    assert card["usdPerMonthIdle"] == pytest.approx(idle, abs=0.01)
    assert card["usdPerMonthPlanned"] == pytest.approx(serving * MONTH + idle, abs=0.01)
    assert card["hoursPerDay"] == 24
    assert card["pricesAsOf"] == "2026-09-23"
    assert card["notCounted"] == []


def test_prod_costs_what_its_parts_cost() -> None:
    """One L4 on standard terms with a larger disk and model, reckoned by hand."""
    serving = 0.8536 + 150 * 0.10 / MONTH + 0.0014 + 0.005 + (0.12 + 0.045) / MONTH
    idle = 12 * 0.10 + 16_327_782_400 / GIB * 0.02 + 0.06

    card = billed("prod").card

    assert card["usdPerHour"] == pytest.approx(serving + idle / MONTH, abs=1e-4)
    assert card["usdPerMonthIdle"] == pytest.approx(idle, abs=0.01)
    assert card["usdPerMonthPlanned"] == pytest.approx(serving * MONTH + idle, abs=0.01)


def test_cloud_run_costs_its_connector_always_and_its_gpu_while_it_is_awake() -> None:
    """An L4 with 4 vCPUs and 16 GiB for two hours a day, and an e2-micro behind NAT."""
    awake = 0.67212 + 4 * 0.0648 + 16 * 0.0072 + (0.12 + 0.045) / MONTH
    connector = 0.008376 + 10 * 0.10 / MONTH + 0.0014 + 0.005
    idle = connector * MONTH + 12 * 0.10 + 8_044_936_192 / GIB * 0.02 + 0.06

    card = billed("cloud-run").card

    assert card["usdPerMonthIdle"] == pytest.approx(idle, abs=0.01)
    assert card["usdPerMonthPlanned"] == pytest.approx(idle + awake * MONTH * 2 / 24, abs=0.01)


def test_an_instance_that_never_sleeps_is_paid_for_always() -> None:
    """`minInstances` decides what a night costs."""
    asleep, awake = billed("cloud-run"), billed("cloud-run", minInstances="1")

    assert awake.usd_per_month_idle > asleep.usd_per_month_idle + 700
    assert awake.usd_per_hour == pytest.approx(asleep.usd_per_hour)


def test_zonal_redundancy_has_its_price() -> None:
    """Google holds a second zone's GPU ready, and bills it."""
    once, twice = billed("cloud-run"), billed("cloud-run", zonalRedundancy="true")

    assert twice.usd_per_hour - once.usd_per_hour == pytest.approx(1.04724 - 0.67212)


def test_more_machines_cost_more_and_none_cost_little() -> None:
    """Machines, their disks and their places in NAT; what they share is paid once."""
    one, two = billed("dev"), billed("dev", replicas="2")

    assert two.usd_per_hour - one.usd_per_hour == pytest.approx(0.3406 + 10 / MONTH + 0.0014)
    assert two.usd_per_month_idle == one.usd_per_month_idle


@pytest.mark.parametrize("hours", [0, 8, 24])
def test_the_month_is_as_long_as_the_gpu_is_meant_to_run(hours: int) -> None:
    """`hoursPerDay` lies between what it costs idle and what it costs all day."""
    found = billed("dev", hoursPerDay=str(hours))
    idle, whole = found.usd_per_month_idle, found.usd_per_hour * MONTH

    assert found.usd_per_month_planned == pytest.approx(idle + (whole - idle) * hours / 24)


def test_what_nobody_publishes_is_named_and_not_counted_as_nothing() -> None:
    """A T4 on Spot has no known price: the sum says that it is more."""
    found = billed("dev", gpu="nvidia-tesla-t4", model="facebook/opt-125m", gpuCount="1")

    assert any("n1-standard-8" in what for what in found.card["notCounted"])
    assert "more than" in found.sentence


@pytest.mark.parametrize(("gpu", "gib"), [("nvidia-a100-80gb", 375), ("nvidia-h100-80gb", 750)])
def test_local_disks_that_come_with_a_machine_are_not_free(gpu: str, gib: int) -> None:
    """Google bills them, and the machine's price is without them: what they cost is not known."""
    found = billed("dev", gpu=gpu)

    (line,) = (line for line in found.lines if "local SSD" in line.what)
    assert (line.quantity, line.price, line.billed) == (gib, None, "serving")
    assert line.what in found.card["notCounted"]
    assert "more than" in found.sentence


def test_weights_are_billed_where_they_lie() -> None:
    """In the bucket, in the image, or by NAT at each start."""
    bucket, image, hub = (billed("dev", weights=way) for way in ("bucket", "image", "hub"))
    gib = 8_044_936_192 / GIB

    assert image.usd_per_month_idle - hub.usd_per_month_idle == pytest.approx(gib * 0.10)
    assert bucket.usd_per_month_idle - hub.usd_per_month_idle == pytest.approx(gib * 0.02)
    assert any(f"{gib * 0.045:.2f} $ a start" in text for text in hub.besides)


def test_a_model_of_unknown_size_is_said_to_be_left_out() -> None:
    """Not silently free."""
    found = billed("dev", model="somebody/something")

    assert any("somebody/something" in text for text in found.besides)


# --- docs/cost.md ---------------------------------------------------------------------------------


def test_the_page_shows_todays_table() -> None:
    """docs/cost.md holds what `tests/compare_costs.py` prints today."""
    page = (Path(__file__).parents[1] / "docs" / "cost.md").read_text()

    assert "\n".join(compare_costs.table()) in page
    assert f"needs {compare_costs.COLD_START_S:.0f} seconds to start" in " ".join(page.split())


@pytest.mark.parametrize(("hours", "standard"), [(7, "spot"), (19, "standard")])
def test_the_page_says_from_when_a_machine_is_cheaper(hours: int, standard: str) -> None:
    """Cloud Run costs less than a machine that never stops up to so many hours a day."""
    machine = compare_costs.stack("vm", provisioning=standard).usd_per_month_planned
    service = compare_costs.stack("cloud-run")

    below, above = (
        replace(service, hours_per_day=each).usd_per_month_planned for each in (hours, hours + 1)
    )
    assert below < machine < above


# --- the program ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", STACKS)
def test_the_stack_hands_its_cost_on(deploy: Deploy, stack: str) -> None:
    """Whoever runs many stacks adds their outputs up. It follows from the configuration alone, so
    that a second `up` has nothing to change."""
    deployment = deploy(stack)

    assert deployment.outputs["cost"] == billed(stack).card


# --- ./scripts/cost -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's shell says where the stacks' files lie."""
    monkeypatch.delenv("PULUMI_OPTION_CONFIG_FILE", raising=False)


@pytest.fixture
def stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a person's stack files lie."""
    (tmp_path / "Pulumi.yaml").write_text((stack_file.ROOT / "Pulumi.yaml").read_text())
    monkeypatch.setattr(stack_file, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("stack", STACKS)
def test_the_command_adds_up_to_the_card(stack: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line is shown, and the sums are those of the stack's output."""
    assert cost.main(["--stack", stack]) is None
    page = capsys.readouterr().out
    assert cost.main(["--stack", stack, "--json"]) is None
    listed = json.loads(capsys.readouterr().out)

    card = billed(stack).card
    assert card.items() <= listed.items()
    assert sum(line["usdPerHour"] for line in listed["lines"]) == pytest.approx(
        card["usdPerHour"], abs=1e-4
    )
    for line in listed["lines"]:
        assert line["what"] in page
        assert line["price"]["source"]
    for figure in (card["usdPerMonthIdle"], card["usdPerMonthPlanned"]):
        assert f"{figure:.2f}" in page


def test_another_regions_price_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    """A price of us-central1 in europe-west4 is no price of europe-west4."""
    cost.main(["--stack", "cloud-run"])

    page = capsys.readouterr().out
    assert "0.67212* a hour" in page
    assert "*: the price in us-central1" in page


def test_a_token_is_one_more_secret(stacks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Encrypted values are not looked at, only counted."""
    text = configuration_file("dev")
    secret = (
        "  cloudflare:apiToken:\n    secure: v1:aaaa\n  huggingFaceToken:\n    secure: v1:bbbb\n"
    )
    (stacks / "Pulumi.mine.yaml").write_text(f"encryptionsalt: v1:x\n{text}{secret}")

    assert cost.main(["--stack", "mine", "--json"]) is None

    (line,) = (
        line
        for line in json.loads(capsys.readouterr().out)["lines"]
        if line["what"].startswith("secret")
    )
    assert line["quantity"] == 2


def test_the_stack_file_is_where_pulumi_finds_it(
    stacks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As in a rehearsal, whose stacks have files of their own; another stack's is not taken."""
    (stacks / "Pulumi.mine.yaml").write_text(configuration_file("dev"))
    (stacks / "Pulumi.other.yaml").write_text(configuration_file("dev"))
    elsewhere = tmp_path / "kept" / "Pulumi.mine.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(configuration_file("dev") + "  hoursPerDay: 8\n")
    monkeypatch.setenv("PULUMI_OPTION_CONFIG_FILE", str(elsewhere))

    def hours(stack: str) -> int:
        assert cost.main(["--stack", stack, "--json"]) is None
        return json.loads(capsys.readouterr().out)["hoursPerDay"]

    assert (hours("mine"), hours("other")) == (8, 24)


def configuration_file(stack: str) -> str:
    """A committed stack's file, from its `config:` on."""
    text = (Path(__file__).parents[1] / f"Pulumi.{stack}.yaml").read_text()
    return text[text.index("config:") :]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "There is no Pulumi.mine.yaml"),
        ("config: [", "Pulumi.mine.yaml cannot be read"),
        ("just words", "is no stack's file"),
        ("config: [a, b]", "must list keys and values"),
        ("config:\n  1: 2\n  yes: no\n", "llm-endpoint:1"),
        ("config:\n  gcp:project: example-project\n", "llm-endpoint:hostname: not set"),
        ("config:\n  gpu: nvidia-h1000\n", "'nvidia-h1000'"),
    ],
)
def test_a_wrong_stack_gets_a_message(stacks: Path, text: str | None, says: str) -> None:
    """Which file, what is wrong with it, what to do; never a traceback."""
    if text is not None:
        (stacks / "Pulumi.mine.yaml").write_text(text)

    outcome = cost.main(["--stack", "mine"])

    assert outcome is not None
    assert says in outcome
