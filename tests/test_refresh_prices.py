"""`./scripts/refresh-prices`: Google's price list, read over HTTP, page by page."""

import csv
import json
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from scripts import google_api, refresh_prices
from tests.clouds import clouds

HEADER = "item,gpus,region,terms,usd,per,source,date\n"
OLD = "somebody,2026-01-01\n"


def sku(description: str, usd: float, usage: str = "OnDemand", **more: Any) -> dict[str, Any]:
    """A part as the Cloud Billing Catalog lists it."""
    price = {"currencyCode": "USD", "units": str(int(usd)), "nanos": round(usd % 1 * 1e9)}
    return {
        "description": description,
        "category": {"resourceFamily": "Compute", "usageType": usage},
        "serviceRegions": ["us-central1"],
        "pricingInfo": [{"pricingExpression": {"tieredRates": [{"unitPrice": price}]}}],
    } | more


SKUS = [
    sku("G2 Instance Core running in Americas", 0.02499),
    sku("G2 Instance Ram running in Americas", 0.00293),
    sku("Nvidia L4 GPU running in Americas", 0.56),
    sku("Spot Preemptible G2 Instance Core running in Americas", 0.00998, "Preemptible"),
    sku("Spot Preemptible G2 Instance Ram running in Americas", 0.00117, "Preemptible"),
    sku("Nvidia L4 GPU attached to Spot Preemptible VMs running in Americas", 0.2, "Preemptible"),
    sku("Spot Preemptible Nvidia L4 GPU running in Americas", 0.2231, "Preemptible"),
    # On other terms, and yet OnDemand: they must not be taken for the price.
    sku("DWS Defined Duration Nvidia L4 GPU running in Americas", 0.3),
    sku("G2 Custom Instance Core running in Americas", 0.05),
    sku("Commitment v1: G2 Core in Americas for 1 Year", 0.01, "Commit1Yr"),
    # Elsewhere, and other things that look alike.
    sku("G2 Instance Core running in Netherlands", 9.0, serviceRegions=["europe-west4"]),
    sku("Regional Balanced PD Capacity in Iowa", 0.2),
    sku("Balanced PD Capacity", 0.11),
]


class Catalog(ThreadingHTTPServer):
    """cloudbilling.googleapis.com with two parts a page."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.skus = list(SKUS)
        self.status = 200
        self.body: bytes | None = None


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        catalog = cast("Catalog", self.server)
        url = urlsplit(self.path)
        known = url.path == f"/v1/{refresh_prices.COMPUTE_ENGINE}/skus"
        start = int(parse_qs(url.query).get("pageToken", ["0"])[0])
        more = str(start + 2) if start + 2 < len(catalog.skus) else ""
        page = {"skus": catalog.skus[start : start + 2], "nextPageToken": more}
        self.send_response(catalog.status if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps(page).encode() if catalog.body is None else catalog.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Catalog]:
    """Google's price list, for somebody with credentials."""
    monkeypatch.setattr(google_api, "BACKOFF_SECONDS", 0)
    with clouds(tmp_path) as cloud, Catalog() as catalog:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        address = f"http://127.0.0.1:{catalog.server_port}/"
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDBILLING", address)
        threading.Thread(target=catalog.serve_forever, args=(0.01,)).start()
        yield catalog
        catalog.shutdown()


Table = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Writes a table of prices in place of the project's."""
    path = tmp_path / "prices.csv"
    monkeypatch.setattr(refresh_prices, "TABLE", path)

    def write(*lines: str) -> Path:
        path.write_text(HEADER + "".join(f"{line},{OLD}" for line in lines))
        return path

    return write


def prices(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Lines by item and terms."""
    return {
        (row["item"], row["terms"]): row for row in csv.DictReader(path.read_text().splitlines())
    }


STANDARD = "g2-standard-8,1,us-central1,standard,0.9,hour"
SPOT = "g2-standard-8,1,us-central1,spot,0.3,hour"
DISK = "pd-balanced,0,us-central1,standard,0.1,GiB-month"
NAT = "nat:vm,0,everywhere,standard,0.0014,hour"


def test_a_machine_costs_its_parts(
    catalog: Catalog, table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 vCPUs, 32 GiB and a GPU on each of two terms; a disk; what is not known stays."""
    path = table(STANDARD, SPOT, DISK, NAT)

    assert refresh_prices.main([]) is None

    now = prices(path)
    standard, spot = 8 * 0.02499 + 32 * 0.00293 + 0.56, 8 * 0.00998 + 32 * 0.00117 + 0.2231
    assert float(now["g2-standard-8", "standard"]["usd"]) == pytest.approx(standard, abs=1e-5)
    assert float(now["g2-standard-8", "spot"]["usd"]) == pytest.approx(spot, abs=1e-5)
    assert now["g2-standard-8", "spot"]["source"] == refresh_prices.SOURCE
    assert now["pd-balanced", "standard"]["usd"] == "0.11"
    assert now["nat:vm", "standard"] == dict(
        zip(HEADER.strip().split(","), f"{NAT},{OLD}".strip().split(","), strict=True)
    )
    said = capsys.readouterr().out
    assert "g2-standard-8 x1, us-central1, standard: 0.9 -> " in said
    assert "3 prices looked up, 3 of them changed; 1 lines" in said


def test_a_dry_run_writes_nothing(
    catalog: Catalog, table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    """It only shows."""
    path = table(STANDARD)
    before = path.read_text()

    assert refresh_prices.main(["--dry-run"]) is None
    assert path.read_text() == before
    assert "Nothing was written" in capsys.readouterr().out


def test_a_leap_wants_a_persons_eyes(catalog: Catalog, table: Table) -> None:
    """Ten times dearer over night is more often another thing's price."""
    path = table(STANDARD.replace("0.9", "0.09"))
    before = path.read_text()

    outcome = refresh_prices.main([])

    assert outcome
    assert "--accept" in outcome
    assert path.read_text() == before
    assert refresh_prices.main(["--accept"]) is None
    assert path.read_text() != before


def test_spot_above_standard_terms_is_refused(catalog: Catalog, table: Table) -> None:
    """A part on other terms has been taken for on-demand: nobody may choose by such prices."""
    catalog.skus[2] = sku("Nvidia L4 GPU running in Americas", 0.01)
    path = table(STANDARD.replace("0.9", "0.4"), SPOT)
    before = path.read_text()

    outcome = refresh_prices.main([])

    assert outcome
    assert "g2-standard-8 in us-central1" in outcome
    assert path.read_text() == before


def test_a_part_that_is_there_twice_or_not_at_all_changes_nothing(
    catalog: Catalog, table: Table
) -> None:
    """Rather an old price than a guess."""
    catalog.skus[0:1] = []
    catalog.skus.append(sku("Nvidia L4 GPU running in Americas", 0.9))
    path = table(STANDARD)
    before = path.read_text()

    assert refresh_prices.main([]) is None
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, None), (403, b"{}"), (200, b"<html>Log in to the Wi-Fi</html>"), (200, b'{"skus": [')],
)
def test_a_bad_answer_changes_nothing(
    catalog: Catalog, table: Table, status: int, body: bytes | None
) -> None:
    """Google is out of order, or something else answers in its place."""
    catalog.status, catalog.body = status, body
    path = table(STANDARD)
    before = path.read_text()

    outcome = refresh_prices.main([])

    assert outcome
    assert "Nothing was changed" in outcome
    assert path.read_text() == before


def test_without_credentials_it_says_how_to_log_in(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step is a command."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    table(STANDARD)

    assert "gcloud auth application-default login" in (refresh_prices.main([]) or "")
