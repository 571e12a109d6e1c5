"""A Pulumi project of a test's own, for the real engine to work on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


class Project:
    """A folder with a program, and the environment in which a person runs `pulumi` there.

    Skips the test where there is no engine. `before` comes first on the PATH.
    """

    def __init__(self, home: Path, name: str, *before: Path, **environment: str) -> None:
        engine = os.environ.get("LLM_ENDPOINT_ENGINE_BIN")
        if not engine:
            pytest.skip(
                "no Pulumi engine: LLM_ENDPOINT_ENGINE_BIN is not set (./scripts/test does)"
            )
        self.folder, backend = home / "project", home / "backend"
        for folder in (self.folder, backend):
            folder.mkdir()
        (self.folder / "Pulumi.yaml").write_text(f"name: {name} # ours\nruntime: python\n")
        (self.folder / "__main__.py").touch()
        path = [*before, Path(sys.executable).parent, engine, os.environ["PATH"]]
        self.environment = {
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(home),
            "LLM_ENDPOINT_PULUMI": f"{engine}/pulumi",
            "PULUMI_HOME": str(home / "pulumi"),
            "PULUMI_BACKEND_URL": f"file://{backend}",
            "PULUMI_CONFIG_PASSPHRASE": "rehearsal",
            "PULUMI_SKIP_UPDATE_CHECK": "1",
            **environment,
        }

    def pulumi(self, *arguments: str) -> str:
        """Run the CLI; its output. AssertionError with all of it when it fails."""
        done = subprocess.run(
            ["pulumi", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
