"""One rehearsal of this machine's user: its folder, its daemon, its Pulumi."""

import json
import os
import secrets
import shutil
import signal
import string
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.google_apis import CALLED
from rehearsal import engine_run, timeline
from rehearsal.errors import RehearsalError
from rehearsal.progress import Progress
from rehearsal.timeline import Event
from rehearsal.world import CREDENTIALS, Accounts, client_environment, without_proxies
from scripts.checks.google import ASKED

ROOT = Path(__file__).parent.parent
PASSPHRASE = "rehearsal"  # noqa: S105 - protects throw-away state from nobody
ASKED_BEFORE = [f"{name}.googleapis.com" for name in ASKED]
"""APIs that somebody has switched on before a stack comes up whose preflight asks them."""
FOR_LOOKING = [it for it in ASKED_BEFORE if it.partition(".")[0] not in CALLED]
"""Those of them that no `up` switches on; the others are left to it where it asks none before."""
LAZY_COLLECTOR = "400"
"""For Go, in which the CLI is written: a quarter of its CPU time goes into collecting garbage."""
START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 15.0


@dataclass(frozen=True)
class Project:
    """A Pulumi program of this repository: where it is and what it is called."""

    name: str
    directory: Path


ENDPOINT = Project("llm-endpoint", ROOT)
CONSUMER = Project("llm-endpoint-consumer", ROOT / "examples" / "consumer")
PROJECTS = (ENDPOINT, CONSUMER)


class Session:
    """A folder that holds a world, a Pulumi home, a state backend and stack files of its own.

    The user's own logins, stacks and stack files are read, never written.
    """

    def __init__(self, home: Path, progress: Progress | None = None) -> None:
        self.home = home
        self.world = home / "world"
        self.logs = home / "logs"
        self.progress = progress
        self._runs = 0
        self._process: subprocess.Popen[bytes] | None = None
        for folder in (self.world, self.logs, home / "backend", home / "pulumi"):
            folder.mkdir(parents=True, exist_ok=True)

    # --- the daemon ---------------------------------------------------------------------------

    @property
    def daemon(self) -> dict[str, Any] | None:
        """The running daemon's pid and ports, or None."""
        try:
            found = json.loads((self.world / "daemon.json").read_text())
            # After a crash or a restart of the machine the pid may be somebody else's.
            words = Path(f"/proc/{found['pid']}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return found if os.fsencode(self.world) in words else None

    def start_daemon(
        self, speed: float, *, outlives_us: bool, gguf: Path | None = None, clock: float = 1.0
    ) -> None:
        """Start the process that plays both clouds and wait until it is ready.

        `clock` seconds pass in one for the commands that `pulumi up` runs.

        Unless it `outlives_us`, it dies with this process, whatever ends that; see `stands`.
        Raises RehearsalError with the end of the daemon's log when it does not start.
        """
        if self.daemon is not None:
            return
        (self.world / "daemon.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "rehearsal.daemon", "--world", str(self.world)]
        command += ["--speed", str(speed), "--clock", str(clock)]
        command += ["--gguf", str(gguf)] if gguf else []
        with (self.world / "daemon.log").open("a") as log:
            self._process = process = subprocess.Popen(
                [*engine_run.dying_with_us(signal.SIGTERM), *command],
                cwd=ROOT,
                # It talks to nobody but this machine, which a proxy would keep it from.
                env=without_proxies(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while self.daemon is None:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise RehearsalError(
                    "The rehearsal's clouds did not start; the end of their log:\n"
                    + self._log_end()
                )
            time.sleep(0.05)
        if outlives_us:
            self._let_daemon_go()

    def why_the_clouds_ended(self) -> str | None:
        """What the daemon that was started here said last, if it is gone unasked."""
        if self._process is None or self.daemon is not None:
            return None
        return (
            f"The rehearsal's clouds ended unexpectedly (status {self._process.wait()}); "
            f"the end of their log:\n{self._log_end()}"
        )

    def _log_end(self) -> str:
        return "\n".join((self.world / "daemon.log").read_text().splitlines()[-8:])

    def _let_daemon_go(self) -> None:
        """Let the clouds outlive this process."""
        if found := self.daemon:
            os.kill(found["pid"], signal.SIGUSR1)

    def stop_daemon(self) -> None:
        """Stop the clouds and every machine in them; no error when they are not running."""
        found = self.daemon
        if found is not None:
            os.kill(found["pid"], signal.SIGTERM)
            deadline = time.monotonic() + STOP_DEADLINE_S
            while self.daemon is not None and time.monotonic() < deadline:
                time.sleep(0.05)
            if self.daemon is not None:
                os.kill(found["pid"], signal.SIGKILL)
        if self._process is not None:
            self._process.kill()  # one that was not ready yet
            self._process.wait()
            self._process = None
        (self.world / "daemon.json").unlink(missing_ok=True)

    def discard(self) -> None:
        """Stop the clouds, ready or not, and remove every file of this session."""
        self.stop_daemon()
        shutil.rmtree(self.home, ignore_errors=True)

    # --- environment --------------------------------------------------------------------------

    def exports(self, stack: str) -> dict[str, str]:
        """Environment variables that lead plain `pulumi`, curl and Python clients here."""
        found = self.daemon
        if found is None:
            raise RehearsalError(
                "The rehearsal's clouds are not running: ./scripts/rehearse --keep"
            )
        engine = os.environ["LLM_ENDPOINT_ENGINE_BIN"]
        path = [str(ROOT / "rehearsal" / "bin"), str(ROOT / ".venv" / "bin"), engine]
        ports = ",".join(f"{name}:{port}" for name, port in sorted(found["providers"].items()))
        return {
            "PATH": os.pathsep.join([*path, os.environ["PATH"]]),
            "LLM_ENDPOINT_PULUMI": str(Path(engine) / "pulumi"),
            "LLM_ENDPOINT_REHEARSAL": str(self.home),
            "PULUMI_HOME": str(self.home / "pulumi"),
            "PULUMI_BACKEND_URL": f"file://{self.home / 'backend'}",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "1",
            "PULUMI_DEBUG_PROVIDERS": ports,
            # The providers are running already; looking for their plugins would take seconds.
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_STACK": stack,
            # `pulumi` is told by bin/pulumi, stack by stack; this is for those who read the file.
            "PULUMI_OPTION_CONFIG_FILE": str(self.stack_file(ENDPOINT, stack)),
            **client_environment(self.world, found["internet"]),
        }

    def environment(self, stack: str) -> dict[str, str]:
        """This process's environment and the exports, without the user's own Pulumi settings."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("PULUMI_")}
        return {"GOGC": LAZY_COLLECTOR} | own | self.exports(stack)

    # --- Pulumi -------------------------------------------------------------------------------

    def pulumi(
        self,
        *arguments: str,
        stack: str,
        project: Project = ENDPOINT,
        stdin: str | None = None,
        log: str | None = None,
    ) -> engine_run.Run:
        """Run the CLI in a project's folder; the log lands in `logs/`."""
        self._runs += 1
        name = log or "-".join(argument for argument in arguments[:2] if argument.isalpha())
        return engine_run.run(
            arguments,
            environment=self.environment(stack),
            cwd=project.directory,
            log=self.logs / f"{stack}-{time.time_ns() // 10**6}-{self._runs:02d}-{name}.log",
            progress=self.progress,
            stdin=stdin,
        )

    def must(self, run: engine_run.Run) -> engine_run.Run:
        """The run, if it succeeded. Raises RehearsalError with the end of its output otherwise."""
        if not run.ok:
            tail = "\n".join(run.stdout.strip().splitlines()[-40:])
            raise RehearsalError(f"{tail}\n\n(the whole output: {run.log})")
        return run

    def stacks(self, project: Project = ENDPOINT) -> list[str]:
        """Stacks of a project that stand in this session's backend."""
        folder = self.home / "backend" / ".pulumi" / "stacks" / project.name
        return sorted(path.stem for path in folder.glob("*.json"))

    def resources(self, stack: str, project: Project = ENDPOINT) -> list[dict[str, Any]]:
        """What a stack's state holds, as the backend keeps it. Empty where there is no stack."""
        path = self.home / "backend" / ".pulumi" / "stacks" / project.name / f"{stack}.json"
        if not path.exists():
            return []
        return json.loads(path.read_text())["checkpoint"]["latest"].get("resources") or []

    def standing(self) -> list[str]:
        """The endpoint's stacks that a rehearsal left up whole."""
        return [stack for stack in self.stacks() if (self.home / "standing" / stack).exists()]

    def stands(self, stack: str) -> None:
        """Note that this stack was left up whole, and let the clouds outlive this process."""
        mark = self.home / "standing" / stack
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
        self._let_daemon_go()

    def release(self, stack: str) -> None:
        """Before a stack is destroyed: no mark, and no lock of a CLI that was killed."""
        (self.home / "standing" / stack).unlink(missing_ok=True)
        for project in PROJECTS:
            locks = self.home / "backend" / ".pulumi" / "locks" / "organization" / project.name
            if any((locks / stack).glob("*.json")):
                self.pulumi("cancel", "--yes", stack=stack, project=project)

    def protected(self, stack: str) -> bool:
        """Whether the stack's configuration protects it from `pulumi destroy`."""
        value = self.plain_config(stack).get("llm-endpoint:protect")
        return str(value).lower() == "true"

    def person(self, stack: str) -> tuple[str, str]:
        """The team's name, and the address of somebody whom the stack's configuration lets in."""
        config = self.plain_config(stack)
        emails: list[str] = config.get("llm-endpoint:allowedEmails") or []
        domains: list[str] = config.get("llm-endpoint:allowedEmailDomains") or []
        people = [*emails, *(f"somebody@{domain}" for domain in domains)]
        return config["llm-endpoint:accessTeamName"], people[0]

    def plain_config(self, stack: str) -> dict[str, Any]:
        """The endpoint's stack configuration as it stands, without its secrets."""
        return _plain_config(self.stack_file(ENDPOINT, stack))

    def stack_file(self, project: Project, stack: str) -> Path:
        """The stack's configuration as the rehearsal uses it; the committed file is left alone."""
        return self.home / "stacks" / project.name / f"Pulumi.{stack}.yaml"

    def stack_file_text(self, stack: str) -> str:
        """The endpoint's stack configuration as it stands."""
        return self.stack_file(ENDPOINT, stack).read_text()

    def write_stack_file_text(self, stack: str, text: str) -> None:
        """Put a stack configuration back."""
        self.stack_file(ENDPOINT, stack).write_text(text)

    def timeline(self, since: float) -> list[Event]:
        """What began in both clouds and in the machines since a time (seconds since the epoch)."""
        files = (self.world / "machines").glob("*/timeline.jsonl")
        events = timeline.read(self.world / "timeline.jsonl", *files)
        return [event for event in events if event.start >= since]

    def own(self, stack: str) -> Accounts:
        """Give the rehearsing person, in the clouds, what the stack's configuration says is theirs.

        Raises RehearsalError when there is no such stack file.
        """
        return self._own(_plain_config(self.stack_source(stack)))

    @staticmethod
    def stack_source(stack: str) -> Path:
        """The committed stack file. Raises RehearsalError when there is none."""
        source = ENDPOINT.directory / f"Pulumi.{stack}.yaml"
        if not source.is_file():
            known = sorted(path.name.split(".")[1] for path in ROOT.glob("Pulumi.*.yaml"))
            raise RehearsalError(
                f"--stack {stack}: there is no {source.name} here; stacks are: {', '.join(known)}"
            )
        return source

    def prepare_stack(self, stack: str) -> None:
        """Make the stack and its file here, from the committed one, with secrets of our own."""
        config = _plain_config(ENDPOINT.directory / f"Pulumi.{stack}.yaml")
        accounts = self.own(stack)
        self._write_stack_file(ENDPOINT, stack, config)
        if stack not in self.stacks():
            self.must(self.pulumi("stack", "init", stack, stack=stack))
        for key, value in (
            ("cloudflare:apiToken", accounts.cloudflare_tokens[0]),
            ("llm-endpoint:huggingFaceToken", accounts.hugging_face_tokens[0]),
        ):
            self.must(self.pulumi("config", "set", "--secret", key, stack=stack, stdin=value))

    def prepare_consumer(self, stack: str) -> None:
        """Make the consumer example's stack, which reads the endpoint's stack of the same name."""
        config = _plain_config(ENDPOINT.directory / f"Pulumi.{stack}.yaml")
        merged = {key: config[key] for key in ("gcp:project", "gcp:region") if key in config}
        merged |= {
            f"{CONSUMER.name}:endpointStack": f"organization/{ENDPOINT.name}/{stack}",
            f"{CONSUMER.name}:consumer": min(config["llm-endpoint:consumers"]),
        }
        self._write_stack_file(CONSUMER, stack, merged)
        if stack not in self.stacks(CONSUMER):
            self.must(self.pulumi("stack", "init", stack, stack=stack, project=CONSUMER))

    def _write_stack_file(self, project: Project, stack: str, config: dict[str, Any]) -> None:
        path = self.stack_file(project, stack)
        path.parent.mkdir(parents=True, exist_ok=True)
        document = _document(path) if path.exists() else {}
        # A stack that is there already has its state encrypted under this salt.
        kept = {key: document[key] for key in ("encryptionsalt",) if key in document}
        path.write_text(yaml.safe_dump({**kept, "config": config}))

    def _own(self, config: dict[str, Any]) -> Accounts:
        """Give the rehearsing person what the stack's configuration says is theirs."""
        path = self.world / "accounts.json"
        before = (
            Accounts.model_validate_json(path.read_text())
            if path.exists()
            else Accounts(
                projects={},
                cloudflare_accounts={},
                cloudflare_zones={},
                cloudflare_tokens=[_random(40)],
                hugging_face_tokens=[f"hf_{_random(34)}"],
            )
        )

        def key(name: str) -> str:
            return str(config.get(f"llm-endpoint:{name}", ""))

        project = str(config.get("gcp:project", ""))
        asked = ASKED_BEFORE if config.get("llm-endpoint:preflight") else FOR_LOOKING
        after = before.model_copy(
            update={
                "google_refresh_tokens": before.google_refresh_tokens or [f"1//{_random(96)}"],
                "google_apis": sorted({*before.google_apis, *asked}),
                "closed_locations": [
                    it for it in before.closed_locations if it != config.get("gcp:region")
                ],
                "projects": {project: str(10**11 + sum(project.encode()))} | before.projects,
                "cloudflare_accounts": before.cloudflare_accounts
                | {key("cloudflareAccountId"): key("accessTeamName")},
                "cloudflare_zones": before.cloudflare_zones
                | {key("cloudflareZoneId"): key("cloudflareZoneName")},
            }
        )
        path.write_text(after.model_dump_json(indent=2))
        path.chmod(0o600)
        self._write_credentials(after.google_refresh_tokens[0])
        return after

    def _write_credentials(self, refresh_token: str) -> None:
        """What `gcloud auth application-default login` leaves behind."""
        path = self.world / CREDENTIALS
        credentials = {
            "type": "authorized_user",
            "client_id": "rehearsal.apps.googleusercontent.com",
            "client_secret": "public, as every installed application's",
            "refresh_token": refresh_token,
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(credentials, indent=2))


def _document(stack_file: Path) -> dict[str, Any]:
    """A stack file as it stands. Raises RehearsalError when it is not YAML."""
    try:
        return yaml.safe_load(stack_file.read_text()) or {}
    except yaml.YAMLError as error:
        raise RehearsalError(f"{stack_file.name} is not valid YAML: {error}") from None


def _plain_config(stack_file: Path) -> dict[str, Any]:
    """A stack file's configuration without what only its owner can decrypt."""
    config: dict[str, Any] = _document(stack_file).get("config") or {}
    return {
        key: value
        for key, value in config.items()
        if not (isinstance(value, dict) and "secure" in value)
    }


def _random(length: int) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))
