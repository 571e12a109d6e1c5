"""A simulated machine: what is isolated, what survives what, and what its commands refuse."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import ENGINE, PYTHON, Guest

pytestmark = pytest.mark.rehearsal

STARTED = "Finished running startup scripts."


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A machine whose startup script does nothing."""
    with Guest(tmp_path_factory.mktemp("world")) as guest:
        guest.cloud.metadata["startup-script"] = "#!/bin/sh\necho hello from $0\nexit 7\n"
        guest.boot().until(STARTED)
        yield guest


def test_the_startup_script_runs_as_the_guest_agent_runs_it(guest: Guest) -> None:
    """Its output is on the console, and so is how it ended."""
    assert "startup-script: hello from /tmp/metadata-scripts/startup-script" in guest.console
    assert 'Script "startup-script" failed with error: exit status 7' in guest.console


def test_a_guest_changes_nothing_outside(guest: Guest) -> None:
    """What root deletes or writes in a guest is as before on this machine."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as ours:
        code, _ = guest.result(f"rm {ours.name} && touch /etc/systemd/system/rehearsal.service")

        assert code == 0
        assert Path(ours.name).exists()
        assert not Path("/etc/systemd/system/rehearsal.service").exists()
        assert not guest.sh("ls /var/tmp").count(Path(ours.name).name)


def test_a_guest_does_not_see_this_machine(guest: Guest) -> None:
    """No homes, no processes, no network and none of the clouds' own files of this machine."""
    outside = guest.world.directory / "clouds.db"
    outside.write_text("the clouds' own")

    assert guest.sh("ls /home") == ""
    assert not guest.sh(f"cat {outside}").startswith("the clouds")
    assert str(os.getpid()) not in guest.sh("ls /proc").split()
    assert guest.sh("cat /proc/net/dev | grep -vE 'lo:|Inter|face'") == ""
    assert guest.sh("hostname").strip() == guest.spec.name


def test_a_socket_lives_in_the_network_of_the_guest(guest: Guest) -> None:
    """What listens in the guest is reached there and nowhere else."""

    async def greet() -> str:
        listening = await guest.machine.listen("10.10.0.7", 8088)
        server = await asyncio.start_server(lambda _, writer: writer.close(), sock=listening)
        async with server:
            connected = await guest.machine.connect("10.10.0.7", 8088)
            reader, writer = await asyncio.open_connection(sock=connected)
            rest = await reader.read()
            writer.close()
            return rest.decode()

    async def refused() -> None:
        await guest.machine.connect("10.10.0.7", 8089)

    assert guest.run(greet()) == ""
    with pytest.raises(ConnectionRefusedError):
        guest.run(refused())


UNKNOWN = {
    "docker run --gpu all image": (125, "unknown flag: --gpu"),
    "docker frobnicate": (1, "docker: unknown command: docker frobnicate"),
    "docker run --network=host --pull=never nothing:1": (125, "No such image: nothing:1"),
    "docker stop nothing": (1, "No such container: nothing"),
    "docker pull busybox": (1, "registry-1.docker.io"),
    f"docker pull {ENGINE}": (1, "unauthorized: Unauthenticated request."),
    "systemctl start nothing": (5, "Unit nothing.service not found."),
    "systemctl is-active nothing": (4, "inactive"),
    "systemctl frobnicate nothing": (1, "Unknown command verb 'frobnicate'."),
    "nvidia-smi --query-gpu=nam --format=csv": (2, 'Field "nam" is not a valid field to query.'),
    "curl -sS https://example.com": (6, "Could not resolve host: example.com"),
}


@pytest.mark.parametrize("command", UNKNOWN)
def test_commands_refuse_what_the_real_ones_refuse(guest: Guest, command: str) -> None:
    """A mistake fails in the rehearsal with the real command's exit code and words."""
    code, message = UNKNOWN[command]

    found, output = guest.result(command)

    assert message in output
    assert found == code


def test_the_gpu_is_the_one_of_the_machine_type(guest: Guest) -> None:
    """nvidia-smi tells what the specification says."""
    query = "nvidia-smi --query-gpu=name,memory.total --format=csv,noheader"

    assert guest.sh(query) == "NVIDIA L4, 24576 MiB\n"


def test_an_image_user_cannot_read_a_file_for_root(guest: Guest) -> None:
    """A container whose image has a user of its own fails on a 0400 file of root, as in life."""
    image = ENGINE.replace("vllm/vllm-openai:v0.33.0", "cloudflare/cloudflared:2026.8.2")
    guest.sh(
        "printf ya29.the-token-of-the-machine | docker login --username oauth2accesstoken"
        f" --password-stdin {image.partition('/')[0]}; docker pull {image};"
        "install -m 0400 /dev/null /run/token"
    )
    run = "timeout 5 docker run --rm --network=host -v /run/token:/run/secrets/token:ro"

    as_image_user = guest.sh(f"{run} {image} --token-file=/run/secrets/token --crash")
    as_root = guest.sh(
        f"{run} --user=0:0 --cap-drop=ALL {image} --token-file=/run/secrets/token --crash"
    )

    assert json.loads(as_image_user.partition(" ")[2])["secret"] == ["error: Permission denied"]
    assert "error" not in json.loads(as_root.partition(" ")[2])["secret"][0]


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        ("IMAGE python3 -c 'print(6 * 7)'", 0, "42\n"),
        ("IMAGE python3 -c 'import rehearsal'", 1, "No module named 'rehearsal'\n"),
        ("--entrypoint=python3 IMAGE -c 'print(6 * 7)'", 0, "42\n"),
        ("--entrypoint=/bin/sh -e A='b c' IMAGE -c 'echo \"$0 $A\"; exit 3' x", 3, "x b c\n"),
        ("--entrypoint=frobnicate IMAGE", 127, 'exec: "frobnicate": executable file not found'),
    ],
)
def test_a_container_starts_with_another_entry_point(
    guest: Guest, words: str, code: int, output: str
) -> None:
    """What the image has on its PATH, or a shell; one without entry point runs a command."""
    host = PYTHON.partition("/")[0]
    login = f"docker login --username oauth2accesstoken --password-stdin {host}"
    guest.sh(f"printf ya29.the-token-of-the-machine | {login}; docker pull {PYTHON}")

    ended, said = guest.result(f"docker run --rm --network=host {words.replace('IMAGE', PYTHON)}")

    assert ended == code
    assert output in said


def test_a_name_can_be_used_once(guest: Guest) -> None:
    """Two containers of one name conflict until the first is removed."""
    guest.sh(
        f"printf ya29.the-token-of-the-machine | docker login --username oauth2accesstoken"
        f" --password-stdin {ENGINE.partition('/')[0]}; docker pull {ENGINE}"
    )
    run = f"docker run --rm --name=one --network=host {ENGINE}"
    guest.sh(f"{run} >/dev/null 2>&1 &")
    guest.wait_for(lambda: "one" in guest.sh("docker ps"), "container")

    code, output = guest.result(run)

    assert code == 125
    assert 'Conflict. The container name "/one" is already in use by container' in output
    assert guest.result("docker rm --force one") == (0, "one\n")


def test_a_unit_that_fails_is_reported_as_systemd_does(guest: Guest) -> None:
    """Starting it fails, its state is failed, and the journal says why."""
    write_unit(guest, "broken", "Type=oneshot\nExecStart=/bin/sh -c 'echo no; exit 4'")

    code, output = guest.result("systemctl start broken")

    assert (code, "Job for broken.service failed" in output) == (1, True)
    assert guest.result("systemctl is-active broken") == (3, "failed\n")
    journal = guest.sh("journalctl -u broken -o cat").splitlines()
    assert "no" in journal
    assert "broken.service: Main process exited, code=exited, status=4/FAILURE" in journal
    assert "broken.service: Failed with result 'exit-code'." in journal


def test_an_unknown_directive_is_ignored_aloud(guest: Guest) -> None:
    """A misspelt directive is warned about, and the unit runs without it."""
    write_unit(guest, "typo", "ExecStart=sleep 99999\nRestartSecs=3")

    assert guest.result("systemctl start typo") == (0, "")
    warning = "Unknown key 'RestartSecs' in section [Service], ignoring."
    assert warning in guest.sh("journalctl -u typo -o cat")


def test_a_changed_unit_needs_a_daemon_reload(guest: Guest) -> None:
    """A unit runs as it was loaded until systemd is told to look again."""
    show = "cat /proc/$(systemctl show changed | sed -n s/MainPID=//p)/cmdline | tr '\\0' ' '"
    write_unit(guest, "changed", "ExecStart=/bin/sleep 1111")
    guest.sh("systemctl start changed")
    write_unit(guest, "changed", "ExecStart=/bin/sleep 2222", load=False)

    guest.sh("systemctl restart changed")
    assert guest.sh(show) == "/bin/sleep 1111 "

    guest.sh("systemctl daemon-reload; systemctl restart changed")
    assert guest.sh(show) == "/bin/sleep 2222 "


def write_unit(guest: Guest, name: str, service: str, load: bool = True) -> None:
    """A unit file of the guest."""
    path = f"/run/systemd/system/{name}.service"
    text = f"[Unit]\nDescription={name}\n[Service]\n{service}\n"
    guest.sh(f"cat >{path} <<'UNIT'\n{text}UNIT\n" + ("systemctl daemon-reload" if load else ""))


def test_the_disk_survives_a_reboot_and_memory_does_not(guest: Guest) -> None:
    """A reboot keeps /var and /etc, empties /run and /tmp, and runs the startup script again."""
    guest.sh("touch /var/lib/kept /etc/kept /run/gone /tmp/gone")
    boots = guest.console.count(STARTED)

    guest.run(guest.machine.reboot())
    guest.until(STARTED, boots + 1)

    assert guest.sh("ls /var/lib/kept /etc/kept") == "/etc/kept\n/var/lib/kept\n"
    assert guest.sh("ls /run/gone /tmp/gone 2>/dev/null") == ""


def test_a_machine_that_crashes_is_seen_to_be_off(tmp_path: Path) -> None:
    """Whoever watches a machine learns that it has ended."""
    with Guest(tmp_path / "world") as guest:
        guest.cloud.metadata["startup-script"] = "#!/bin/sh\n"
        guest.boot().until(STARTED)
        assert guest.machine.running

        guest.run(guest.machine.stop(grace_s=0))
        guest.run(guest.machine.wait())

        assert not guest.machine.running


DAEMON = """
import sys
from pathlib import Path
from tests.guest import Guest
guest = Guest(Path(sys.argv[1]))
guest.__enter__()
guest.cloud.metadata["startup-script"] = "#!/bin/bash\\nexec -a planted-in-guest sleep 1e9\\n"
guest.boot().until("Found startup-script")
print("booted", flush=True)
input()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_daemon(tmp_path: Path, number: signal.Signals) -> None:
    """However the daemon ends, its guests' processes and mounts end with it."""
    world = tmp_path / "world"
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(world)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdout is not None
    assert daemon.stdin is not None
    assert daemon.stdout.readline() == "booted\n"
    keeper = descendants(daemon.pid)
    assert keeper

    daemon.send_signal(number)
    daemon.wait()
    daemon.stdin.close()
    daemon.stdout.close()

    with Guest(tmp_path / "clock") as clock:
        clock.wait_for(lambda: not [it for it in keeper if alive(it)], "end of the guest")
    assert str(world) not in Path("/proc/self/mountinfo").read_text()


def descendants(pid: int) -> list[int]:
    """Processes below one, found by their parents."""
    found = [pid]
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda it: int(it.name)):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
        if parent in found:
            found.append(int(entry.name))
    return found[1:]


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
