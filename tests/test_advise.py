"""`./scripts/advise`: every way to serve a model, and what it says when it cannot tell."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from components import catalogue
from components.models import models
from components.settings import Settings
from scripts import advise, hugging_face
from tests.hub_site import TOKEN, hub_site
from tests.stack_config import SECRET_KEYS, configuration

ROOT = Path(__file__).parents[1]
EIGHT, SEVENTY = "Qwen/Qwen3-8B", "meta-llama/Llama-3.3-70B-Instruct"
FIVE = [
    EIGHT,
    SEVENTY,
    "Qwen/Qwen3-14B-FP8",
    "openai/gpt-oss-20b",
    "google/gemma-4-26B-A4B",
]
ELSEWHERE = "somebody/new-13B"
"""The catalogue does not have it; the rehearsal's hub does."""
Advise = Callable[..., str]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hub_site(tmp_path_factory.mktemp("world")) as url:
        yield url


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's token, and no waiting between tries."""
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(hugging_face, "RETRIES", hugging_face.RETRIES.new(backoff_factor=0))


@pytest.fixture(name="advise")
def _advise(capsys: pytest.CaptureFixture[str]) -> Advise:
    """Runs it; returns what it prints."""

    def run(*arguments: str) -> str:
        assert advise.main(list(arguments)) is None
        return capsys.readouterr().out

    return run


def refused(*arguments: str) -> str:
    """What it says when it has no advice."""
    outcome = advise.main(list(arguments))
    assert outcome
    return outcome


def rows(page: str) -> list[list[str]]:
    """The cells of the table's rows; none of them has two blanks within."""
    starts = [0, 3, 18, 34, 43, 51, 59, 66, 73, 81]
    lines = [line for line in page.splitlines() if re.match(r" ?\d+ \d+ [a-z]", line)]
    return [
        [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines
    ]


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [*FIVE, ELSEWHERE])
def test_every_model_gets_a_table(advise: Advise, hub: str, model: str) -> None:
    """Five of the catalogue's and one that the hub has: cheapest first, within 100 columns."""
    page = advise(model, "--hub", hub)
    table = rows(page)

    assert table
    assert [row[0] for row in table] == [str(number) for number in range(1, len(table) + 1)]
    months = [float(row[8]) for row in table if row[8] != "?"]
    assert months == sorted(months)
    assert max(map(len, page.splitlines())) <= 100
    assert f"pulumi config set model {model}\n" in page


def test_the_cheapest_way_for_8b_in_16_bits_is_one_l4(advise: Advise) -> None:
    """The first row, its prices as the catalogue has them."""
    first = rows(advise(EIGHT, "--max-model-len", "8192"))[0]

    assert first[1:4] == ["1 l4", "g2-standard-8", "bf16"]
    assert first[6:] == ["0.85", "0.34", "249", "us-central1 +17"]
    assert int(first[4]) > 8192


def test_70b_in_16_bits_has_no_row_with_one_l4(advise: Advise) -> None:
    """The smallest that take it are eight L4 or an 80 GB GPU twice."""
    table = rows(advise(SEVENTY))

    assert table[0][1:3] == ["8 l4", "g2-standard-96"]
    assert not [row for row in table if row[1] in ("1 l4", "2 l4", "4 l4", "1 h100-80gb")]


def test_cloud_run_is_a_way_and_unknown_prices_are_no_zeros(advise: Advise) -> None:
    """An L4 on Cloud Run costs GPU, CPU and memory; a T4's Spot price is not known.

    What Cloud Run costs where it has L4s for everybody is not known either: the price of another
    region is marked.
    """
    page = advise(EIGHT)
    table = {(row[1], row[2]): row for row in rows(page)}

    assert table["1 l4", "Cloud Run"][6:8] == ["1.05*", "-"]
    assert table["1 l4", "Cloud Run"][9] == "asia-southeast1 +3"
    assert "*: another region's price" in page
    assert table["2 tesla-t4", "n1-standard-8"][6:8] == ["1.08", "?"]
    assert table["2 tesla-t4", "n1-standard-8"][3] == "fp16"
    assert table["1 h100-80gb", "a3-highgpu-1g"][6] == "-"


@pytest.mark.parametrize(("row", "terms"), [("1", "spot"), ("4", "standard")])
def test_the_stack_is_on_the_terms_that_the_price_is_of(
    advise: Advise, row: str, terms: str
) -> None:
    """A T4 is to be had on Spot, but the row's price a month is that of standard terms."""
    assert f"pulumi config set provisioning {terms}" in advise(EIGHT, "--row", row)


def test_what_a_gpu_must_widen_is_marked(advise: Advise) -> None:
    """An A100 has no 8-bit floats."""
    page = advise("Qwen/Qwen3-14B-FP8")
    table = {row[1]: row for row in rows(page)}

    assert table["1 l4"][3] == "fp8"
    assert table["1 tesla-a100"][3] == "fp8/16"
    assert "widened to 16 bits" in page


def test_a_region_narrows_the_choice_and_has_its_own_prices(advise: Advise) -> None:
    """In Frankfurt an L4 costs more, and there is no A100."""
    page = advise(EIGHT, "--region", "europe-west3")
    table = rows(page)

    assert table[0][1:3] + table[0][6:8] == ["1 l4", "g2-standard-8", "1.01", "0.49"]
    assert not [row for row in table if "a100" in row[1] or row[2] == "Cloud Run"]
    assert "*: another region's price" in page
    assert "pulumi config set gcp:region europe-west3" in page


def test_the_month_is_as_long_as_the_machine_runs(advise: Advise) -> None:
    """Eight hours a day are a third of the price."""
    whole, third = (
        json.loads(advise(EIGHT, "--json", "--hours-per-day", hours))[0]["usd_per_month"]
        for hours in ("24", "8")
    )

    assert whole == pytest.approx(0.3406 * 24 * 365 / 12, abs=0.01)
    assert third == pytest.approx(whole / 3, abs=0.01)


def test_longer_requests_need_larger_machines(advise: Advise) -> None:
    """What does not take the asked length is not offered."""
    table = rows(advise(EIGHT, "--max-model-len", "40960"))

    assert table[0][1] == "2 l4"
    assert all(int(row[4]) >= 40960 for row in table)


def test_the_readme_shows_what_it_prints(advise: Advise) -> None:
    """The example in the README is today's."""
    table = advise(EIGHT).splitlines()[3:7]

    assert "\n".join(table) in (ROOT / "README.md").read_text()


def test_json_is_the_list_of_rows(advise: Advise) -> None:
    """A script gets figures, sources and stack keys; nothing else is printed."""
    listed: list[dict[str, Any]] = json.loads(advise(EIGHT, "--json"))
    table = rows(advise(EIGHT))

    assert len(listed) == len(table)
    first = listed[0]
    assert (first["gpu"], first["gpu_count"], first["platform"]) == ("nvidia-l4", 1, "vm")
    assert first["usd_per_hour"]["spot"]["usd"] == 0.3406
    assert first["usd_per_hour"]["spot"]["source"]
    assert set(first["regions"]) == set(catalogue.regions("nvidia-l4"))
    assert first["longest_context"] == int(table[0][4])
    assert first["terms"] == ["flex-start", "spot", "standard"]


@pytest.mark.parametrize("model", FIVE)
def test_the_keys_of_every_row_make_a_stack_that_works(advise: Advise, model: str) -> None:
    """What is pasted passes the program's own rules, the model's gate included."""
    for row in json.loads(advise(model, "--json")):
        if row["platform"] == "cloud-run":
            continue
        keys = {
            name if ":" in name else f"llm-endpoint:{name}": value
            for name, value in row["stack"].items()
        }
        settings = Settings.parse(configuration("dev", keys), SECRET_KEYS)
        assert settings.machine_type == row["machine_type"]


def test_another_row_can_be_chosen(advise: Advise) -> None:
    """--row prints the keys of that row."""
    page = advise(EIGHT, "--row", "2")

    assert "Row 2 as a stack:" in page
    assert "pulumi config set gpuCount 2\n" in page
    assert "there are" in refused(EIGHT, "--row", "1000")


def test_a_row_on_cloud_run_names_its_platform(advise: Advise) -> None:
    """There, the GPU alone says the machine."""
    number = next(row[0] for row in rows(advise(EIGHT)) if row[2] == "Cloud Run")
    page = advise(EIGHT, "--row", number)

    assert "pulumi config set platform cloud-run\n" in page
    assert "gpuCount" not in page
    assert "pulumi config set gcp:region " in page


def test_weights_beyond_the_disk_ask_for_a_larger_one(advise: Advise) -> None:
    """141 GB of weights do not fit the usual 100 GB."""
    assert "pulumi config set bootDiskGb 200" in advise(SEVENTY)
    assert "bootDiskGb" not in advise(EIGHT)


def test_a_gated_model_asks_for_its_licence(advise: Advise) -> None:
    """The catalogue knows which are."""
    page = advise(SEVENTY)

    assert f"accept its licence on https://huggingface.co/{SEVENTY}" in page
    assert "pulumi config set --secret huggingFaceToken" in page


# --- models that the catalogue does not have ------------------------------------------------------


def test_the_hub_says_what_the_catalogue_would(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from files over HTTP, every model of the catalogue is the same again."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    for name, model in models().items():
        assert hugging_face.read(name, hub) == model


@pytest.mark.parametrize("place", ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"])
def test_the_token_is_found_where_the_hubs_library_finds_it(
    advise: Advise, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """In a variable, or in a file; and it is never printed."""
    (tmp_path / "hub").mkdir()
    if place == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    elif place == "HF_TOKEN_PATH":
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "own"))
        (tmp_path / "own").write_text(TOKEN)
    else:
        (tmp_path / "hub" / "token").write_text(f"{TOKEN}\n")

    page = advise("meta-llama/Gated-8B", "--hub", hub)

    assert "It is gated" in page
    assert TOKEN not in page


def test_a_gated_model_without_a_token_says_which_page_to_visit(hub: str) -> None:
    """The licence's page and the tokens' page."""
    told = refused("meta-llama/Gated-8B", "--hub", hub)

    assert f"accept its licence on {hub}/meta-llama/Gated-8B" in told
    assert "https://huggingface.co/settings/tokens" in told
    assert "HF_TOKEN" in told


@pytest.mark.parametrize("token", ["hf_expired", "ein Schlüssel"])
def test_a_token_that_is_wrong_is_said_and_not_shown(
    hub: str, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """Expired, or pasted wrongly."""
    monkeypatch.setenv("HF_TOKEN", token)

    told = refused(ELSEWHERE, "--hub", hub)

    assert "token" in told
    assert token not in told


def test_a_token_travels_in_clear_to_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror over plain HTTP gets none."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    seen: list[dict[str, str]] = []

    class Session(hugging_face.requests.Session):
        def get(self, url: str, **_: object) -> Any:  # type: ignore[override]
            seen.append({str(name): str(value) for name, value in self.headers.items()})
            raise hugging_face.requests.ConnectionError

    monkeypatch.setattr(hugging_face.requests, "Session", Session)
    for hub in ("http://mirror.example", "http://127.0.0.1.example", "https://mirror.example"):
        refused(ELSEWHERE, "--hub", hub)

    assert ["Authorization" in headers for headers in seen] == [False, False, True]


def test_a_model_that_is_not_there_is_looked_up(hub: str) -> None:
    """The hub's search, and that it may be private."""
    told = refused("nobody/nothing", "--hub", hub)

    assert f"{hub}/models?search=nothing" in told
    assert "private" in told


def folder(tmp_path: Path, config: object = None, **files: int) -> str:
    """A folder with Qwen3-8B's config.json, or another, and files of some size."""
    source = ROOT / "tests" / "models" / "Qwen--Qwen3-8B.json"
    text = source.read_text() if config is None else str(config)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(text)
    for name, size in files.items():
        with (tmp_path / "model" / f"{name}.safetensors").open("wb") as file:
            file.truncate(size)
    return str(tmp_path / "model")


def test_a_folder_does_as_well(advise: Advise, tmp_path: Path) -> None:
    """Files of weights are measured; an index is believed first. The name is the user's to fill."""
    place = folder(tmp_path, model_1=8 * 10**9, model_2=8 * 10**9)
    measured = advise(place)
    index = {"metadata": {"total_size": 16381470720}, "weight_map": {}}
    (Path(place) / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "bf16, 14.9 GiB of weights" in measured
    assert "bf16, 15.3 GiB of weights" in advise(place)
    assert "pulumi config set model ORGANISATION/NAME" in measured


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is not a JSON object"),
        ('{"num_hidden_layers": 3}', "shape that is not known here"),
        ('{"model_type": "whisper", "encoder_layers": 3}', "an encoder"),
        (b"\xff\xfe".decode("latin-1"), "cannot be read as JSON"),
    ],
)
def test_a_folder_with_a_bad_config_is_named(tmp_path: Path, config: str, words: str) -> None:
    """Which file it is, and what to do about it."""
    place = folder(tmp_path, config, model=10**9)

    assert words in refused(place)
    assert place in refused(place) or Path(place).name in refused(place)


def test_a_folder_without_weights_or_config_says_what_is_missing(tmp_path: Path) -> None:
    """Neither is guessed."""
    place = folder(tmp_path)
    assert "nor a file of safetensors" in refused(place)
    (Path(place) / "config.json").unlink()
    assert "has no config.json" in refused(place)


# --- a hub that misbehaves ------------------------------------------------------------------------

Answer = tuple[int, dict[str, str], bytes]
CONFIG = (ROOT / "tests" / "models" / "Qwen--Qwen3-8B.json").read_bytes()
MISSING: Answer = (404, {"X-Error-Code": "EntryNotFound"}, b"{}")


@contextmanager
def misbehaving(*answers: Answer) -> Generator[tuple[str, list[str]]]:
    """A hub that gives these answers, the last one for ever; and the paths that it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


MISBEHAVIOUR: list[tuple[Answer, str]] = [
    ((200, {}, b"<!DOCTYPE html><title>Log in</title>"), "a proxy that wants a login"),
    ((200, {}, b'{"num_hidden_layers": 3'), "breaks off"),
    ((200, {}, b"[1, 2]"), "is not what the hub sends"),
    ((200, {"Content-Length": "500"}, b"{}"), "breaks off"),
    ((200, {"Content-Encoding": "gzip"}, b"{}"), "breaks off"),
    ((200, {}, b"\xff\xfe\x00"), "breaks off"),
    (MISSING, "has no config.json"),
    ((404, {}, b"Not Found"), "The hub has no model"),
    ((500, {}, b"oops"), "answers 500"),
    ((429, {"Retry-After": "300"}, b"{}"), "wants fewer requests"),
    ((403, {"X-Error-Code": "GatedRepo"}, b"{}"), "is gated"),
    ((418, {}, b"{}"), "answers 418"),
    ((302, {"Location": "/"}, b""), "does not answer (TooManyRedirects)"),
]


@pytest.mark.parametrize(
    ("answer", "words"),
    MISBEHAVIOUR,
    ids=[f"{answer[0]} {words}" for answer, words in MISBEHAVIOUR],
)
def test_a_hub_that_misbehaves_is_described(answer: Answer, words: str) -> None:
    """Each in a sentence with a next step; never a traceback, never a wrong table."""
    with misbehaving(answer) as (url, _):
        assert words in refused(ELSEWHERE, "--hub", url)


def test_a_hub_that_recovers_is_asked_again(advise: Advise) -> None:
    """A 503 in between does no harm."""
    files = {"siblings": [{"rfilename": "model.safetensors", "size": 16381470720}]}
    answers: list[Answer] = [
        (503, {}, b""),
        (200, {}, CONFIG),
        MISSING,
        (200, {}, json.dumps(files).encode()),
    ]
    with misbehaving(*answers) as (url, asked):
        page = advise(ELSEWHERE, "--hub", url)

    assert "15.3 GiB of weights" in page
    assert asked == [
        f"/{ELSEWHERE}/resolve/main/config.json",
        f"/{ELSEWHERE}/resolve/main/config.json",
        f"/{ELSEWHERE}/resolve/main/model.safetensors.index.json",
        f"/api/models/{ELSEWHERE}?blobs=true",
    ]


@pytest.mark.parametrize("files", [{}, {"siblings": None}, {"siblings": [1, {"size": 2}]}])
def test_weights_of_unknown_size_are_not_guessed(files: dict[str, Any]) -> None:
    """A repository with GGUF files only, or one whose files' sizes the hub keeps to itself."""
    answers: list[Answer] = [(200, {}, CONFIG), MISSING, (200, {}, json.dumps(files).encode())]
    with misbehaving(*answers) as (url, _):
        assert "has no weights as safetensors" in refused(ELSEWHERE, "--hub", url)


def test_no_network_is_said() -> None:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    told = refused(ELSEWHERE, "--hub", f"http://127.0.0.1:{port}")

    assert "does not answer (ConnectionError)" in told
    assert "./scripts/advise FOLDER" in told


@pytest.mark.parametrize("hub", ["huggingface.co", "http://", "ftp://huggingface.co", "http://["])
def test_an_address_that_is_none_is_said(hub: str) -> None:
    """A hub has an address with a scheme and a host."""
    assert "is no address of a hub" in refused(ELSEWHERE, "--hub", hub)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((EIGHT, "--max-model-len", "50000"), "made for 40960 tokens. Try --max-model-len 40960."),
        ((SEVENTY, "--region", "europe-west6", "--max-model-len", "131072"), "the longest context"),
        (
            ("Qwen/Qwen3-235B-A22B-FP8", "--region", "europe-west6"),
            "in europe-west6 takes Qwen/Qwen3-235B-A22B-FP8 at any length",
        ),
        (("qwen3",), "neither a model on Hugging Face (ORGANISATION/NAME) nor a folder"),
        (("../nowhere/x",), "neither a model"),
    ],
)
def test_where_there_is_no_way_the_next_step_is_said(
    arguments: tuple[str, ...], words: str
) -> None:
    """What is in the way, and what to try instead."""
    assert words in refused(*arguments)


def test_json_without_a_way_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    """A script reads a list all the same; the reason goes to standard error."""
    assert "Try --max-model-len" in refused(EIGHT, "--json", "--max-model-len", "50000")
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-model-len", "8k"),
        ("--max-model-len", "0"),
        ("--hours-per-day", "25"),
        ("--hours-per-day", "nan"),
        ("--region", "moon-central1"),
        ("--row", "-1"),
    ],
)
def test_arguments_out_of_range_are_refused(
    arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By argparse, with the argument's name."""
    with pytest.raises(SystemExit) as ended:
        advise.main([EIGHT, *arguments])

    assert ended.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


# --- as a command ---------------------------------------------------------------------------------


def test_it_runs_from_anywhere(tmp_path: Path) -> None:
    """As a command in any folder; without Pulumi on the PATH, and with a pipe that closes."""
    command = f"{ROOT}/scripts/advise {EIGHT} | head -n 1"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    run = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout == f"{EIGHT}: bf16, 15.3 GiB of weights\n"
    assert not run.stderr


def test_without_a_virtual_environment_it_says_what_to_run(tmp_path: Path) -> None:
    """As the other scripts do."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "advise", tmp_path / "scripts")
    run = subprocess.run(
        [tmp_path / "scripts" / "advise", EIGHT], capture_output=True, text=True, check=False
    )

    assert run.returncode == 1
    assert "run ./scripts/setup first" in run.stderr


def test_a_refusal_goes_to_standard_error_within_100_columns() -> None:
    """Exit status 1, no traceback."""
    run = subprocess.run(
        [ROOT / "scripts" / "advise", EIGHT, "--max-model-len", "50000"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 1
    assert not run.stdout
    assert "Try --max-model-len 40960." in " ".join(run.stderr.split())
    assert max(map(len, run.stderr.splitlines())) <= 100
