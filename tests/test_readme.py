"""What the README says is there, and what is there the README says."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rehearsal import rehearse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "rehearsal/README.md")),
    *(page for part in ("docs", "examples") for page in sorted((ROOT / part).glob("**/*.md"))),
]
DECLARED: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
PROVIDERS_KEYS = {"gcp:project", "gcp:region", "cloudflare:apiToken"}


def section(title: str) -> str:
    """The text under a heading, up to the next one of its level."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", README, re.M | re.S)
    assert found, f"the README has no section {title!r}"
    return found[2]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of the tables in a text, without headings and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = {index for index, row in enumerate(cells) if set("".join(row)) <= set("-|")}
    return [row for index, row in enumerate(cells) if not rules & {index, index + 1}]


def named(row: list[str]) -> str:
    """What the first cell of a row names."""
    (name,) = re.findall(r"`([^`]+)`", row[0])
    return name


def configuration_row(key: str, declaration: dict[str, Any]) -> str:
    """A key of Pulumi.yaml as the README must show it."""
    default = declaration.get("default")
    shown = default if isinstance(default, str) and default else json.dumps(default)
    value = f"`{shown}`" if "default" in declaration else "must be set"
    secret = " Secret." if declaration.get("secret") else ""
    return f"| `{key}` | {value} | {declaration['description'].strip()}{secret} |"


def test_every_configuration_key_is_there_with_its_default() -> None:
    """Whoever reads the README knows every key, its default and its meaning, and no other key."""
    expected = [configuration_row(*item) for item in DECLARED.items()]
    table = [line for line in section("Configuration").splitlines() if line.startswith("| `")]

    assert table == expected, "in README.md it must read:\n" + "\n".join(expected)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_configuration_commands_name_keys_that_exist(page: Path) -> None:
    """A `pulumi config set` that is copied from a page sets something."""
    commands = re.findall(r"pulumi config set ((?:--\S+ )*)'?([\w:-]+)", page.read_text())
    keys = {key.removeprefix("llm-endpoint:") for _, key in commands} - {"KEY"}
    own = yaml.safe_load((ROOT / "examples/consumer/Pulumi.yaml").read_text())["config"]
    known = {*DECLARED, *PROVIDERS_KEYS, *(own if "consumer" in page.parts else ())}

    assert keys <= known


def test_every_output_is_there() -> None:
    """The outputs in the README and in the changelog are those that a stack has."""
    exported = [
        node.args[0].value
        for node in ast.walk(ast.parse((ROOT / "__main__.py").read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "pulumi.export"
        and isinstance(node.args[0], ast.Constant)
    ]
    changes = (ROOT / "CHANGELOG.md").read_text()

    assert [named(row) for row in rows(section("Outputs"))] == exported
    assert all(f"`{name}`" in changes for name in exported)
    assert set(re.findall(r"stack output (\w+)", README)) <= set(exported)


def test_every_flag_of_the_rehearsal_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's flags of ./scripts/rehearse are those that it takes."""
    monkeypatch.setattr(sys, "argv", ["rehearse", "--help"])
    with pytest.raises(SystemExit):
        rehearse.arguments()
    flags = set(re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.M))

    told = [named(row).split()[0] for row in rows(section("The rehearsal"))]
    assert sorted(told) == sorted(flags)


def test_every_script_is_there() -> None:
    """Scripts that a page names exist, and the README names all that are for people."""
    present = {it.name for it in (ROOT / "scripts").iterdir()}
    commands = {it.name for it in (ROOT / "scripts").iterdir() if it.is_file() and not it.suffix}
    said = {
        name
        for page in PAGES
        for name in re.findall(r"(?<![\w.])scripts/([\w-]+(?:\.\w+)?)", page.read_text())
    }
    (listed,) = (row[1] for row in rows(section("The repository")) if row[0] == "`scripts/`")

    assert said <= present
    assert set(re.findall(r"`([\w.-]+)`", listed)) == commands


def test_every_file_that_is_named_exists() -> None:
    """A path in back-quotes leads to a file."""
    paths = {
        path
        for page in PAGES
        for path in re.findall(
            r"`((?:components|rehearsal|scripts|tests|docs|examples)/[\w./-]*)`", page.read_text()
        )
    }

    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_layout_lists_every_folder() -> None:
    """The README has a line for every folder of the repository."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = {f"{path.split('/')[0]}/" for path in tracked if "/" in path}
    told = {
        name for row in rows(section("The repository")) for name in re.findall("`(.+?)`", row[0])
    }

    assert {folder for folder in folders if not folder.startswith(".")} <= told


def test_every_google_resource_has_a_role() -> None:
    """Whoever has the roles in the README may create all that a stack declares."""
    declared: set[str] = set()
    for source in (ROOT / "components").glob("*.py"):
        modules = re.findall(r"^from pulumi_gcp import (.+)$", source.read_text(), re.M)
        for module in ", ".join(modules).split(", "):
            calls = re.findall(rf"(?<!\w){module}\.([A-Z]\w+)\($", source.read_text(), re.M)
            inline = re.findall(rf"(?<!\w){module}\.([A-Z]\w+)\(f?\"", source.read_text())
            declared |= {f"{module}.{name}" for name in [*calls, *inline]}
    table = [row for row in rows(section("Deploy it")) if row[0].startswith("`roles/")]

    assert {name for row in table for name in re.findall(r"`(\w+\.[A-Z]\w+)`", row[1])} == declared


def anchors(page: Path) -> set[str]:
    """What a link may name in a page: its headings as GitHub spells them."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {word.replace(" ", "-") for word in words}


def links() -> Iterator[tuple[Path, str]]:
    """Every link within the repository, with the page that has it."""
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(
    ("page", "target"), [pytest.param(*link, id=f"{link[0].name}-{link[1]}") for link in links()]
)
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    """Links between pages, and to headings, resolve."""
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page

    assert there.exists()
    assert not anchor or anchor in anchors(there)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_pasted(page: Path) -> None:
    """Every block of shell in the pages is shell."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
        run = subprocess.run(
            ["bash", "-n"], input=block, text=True, capture_output=True, check=False
        )

        assert run.returncode == 0, run.stderr


def test_sections_that_other_pages_point_to_exist() -> None:
    """`README, "Title"` in a page names a section, or a step, of the README."""
    titles = {
        title for page in PAGES for title in re.findall(r'README, "([^"]+)"', page.read_text())
    }

    assert titles
    assert not [title for title in titles if not re.search(rf"(# |\*\*(\d\. )?){title}", README)]


def test_pictures_are_for_light_and_dark() -> None:
    """The README's pictures are drawn for both, and say in words what they show."""
    pictures = re.findall(r"!\[(.+)\]\((.+\.svg)\)", README)

    assert pictures
    for words, path in pictures:
        drawing = (ROOT / path).read_text()
        assert "prefers-color-scheme: dark" in drawing
        assert "<title" in drawing
        assert words


@pytest.mark.parametrize(
    "command", ["advise", "cost", "preflight", "refresh-prices", "repair", "timeline"]
)
def test_a_command_says_what_it_does(command: str) -> None:
    """Under the name that the README has for it."""
    done = subprocess.run(
        [f"./scripts/{command}", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: ./scripts/{command}" in done.stdout
