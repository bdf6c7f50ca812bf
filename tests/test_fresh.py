"""Both commands of the README on a minimal Debian, as a user without rights.

The machine is a directory made by mmdebstrap with the packages that the README names and no
others. It shares the network and the processor with the host, and sees the folders that pip's
configuration names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = "python3,python3-pip,git,make,ca-certificates"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
NETWORK_FILES = ("etc/resolv.conf", "etc/hosts", "etc/pip.conf", "etc/xdg/pip", CERTIFICATES)
# Passed to the machine: what pip and uv read, addresses of proxies, certificates.
VARIABLES = re.compile(r"(PIP|UV|SSL)_.*|(HTTPS?|ALL|NO)_PROXY", re.IGNORECASE)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("mmdebstrap") is None,
        reason="needs root and mmdebstrap (apt-get install mmdebstrap)",
    ),
]


@dataclass(frozen=True)
class Machine:
    root: Path

    def run(self, command: str, user: str = "user") -> subprocess.CompletedProcess[str]:
        """Run a shell command; every process that it started ends with it."""
        mounts = "\n".join(f"mount --rbind {path} {self.root}{path}" for path in self.shared())
        script = f"set -e\n{mounts}\nmount -t proc proc {self.root}/proc\nexec {self.chroot(user)}"
        variables = {name: value for name, value in os.environ.items() if VARIABLES.fullmatch(name)}
        return subprocess.run(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                script,
                "sh",
                command,
            ],
            env={**variables, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def chroot(self, user: str) -> str:
        home, folder = ("/root", "/") if user == "root" else ("/home/user", "/home/user/checkout")
        shell = f'cd {folder} && export HOME={home} && eval "$1"'
        return f"chroot --userspec={user} {self.root} sh -c '{shell}' sh \"$1\""

    def shared(self) -> list[Path]:
        """Devices, processors, and the folders of packages that pip is configured with."""
        python = Path(sys.base_prefix, "bin", "python3")  # `.venv` has no pip
        command = [python, "-m", "pip", "config", "list"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        named = (Path(name) for name in re.findall(r"(?:file://|(?<=[' n]))(/[\w./-]+)", listed))
        folders = {path for path in named if path.is_dir()}
        # An index of files refers to its neighbours.
        folders = {path.parent if path.name == "simple" else path for path in folders}
        return [Path("/dev"), Path("/sys"), *sorted(folders)]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    root = tmp_path_factory.mktemp("fresh") / "root"
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={PACKAGES}",
            "bookworm",
            str(root),
        ],
        check=True,
    )
    connect(root)
    add_user_with_checkout(root)
    return Machine(root)


def connect(root: Path) -> None:
    """Give the machine the host's network settings and configuration of pip."""
    for name in NETWORK_FILES:
        source, target = Path("/", name), root / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copyfile(source, target)
    for folder in Machine(root).shared():
        Path(f"{root}{folder}").mkdir(parents=True, exist_ok=True)


def add_user_with_checkout(root: Path) -> None:
    subprocess.run(["chroot", root, "useradd", "--create-home", "user"], check=True)
    home = root / "home" / "user"
    configuration = Path.home() / ".config" / "pip"
    if configuration.is_dir():
        shutil.copytree(configuration, home / ".config" / "pip")
    subprocess.run(["git", "clone", "--quiet", f"file://{ROOT}", home / "checkout"], check=True)
    subprocess.run(["chroot", root, "chown", "--recursive", "user:user", "/home/user"], check=True)


def test_a_missing_library_is_named_before_anything_is_installed(machine: Machine) -> None:
    result = machine.run("make demo")

    assert result.returncode != 0
    assert "libnuma.so.1" in result.stdout
    assert "sudo apt-get install libnuma1\n" in result.stdout
    assert "Traceback" not in result.stdout
    assert machine.run("ls -d .venv .build").returncode != 0


@pytest.fixture(scope="module")
def prepared(machine: Machine) -> Machine:
    """The machine after the command of the message."""
    result = machine.run("apt-get update && apt-get install --yes libnuma1", user="root")
    assert result.returncode == 0, result.stdout
    assert machine.run("command -v c++ g++ gcc cc clang").returncode != 0
    return machine


def test_demo_without_a_compiler(prepared: Machine) -> None:
    result = prepared.run("make demo")

    assert result.returncode == 0, result.stdout
    assert result.stdout.count("saved out/demo/image-") == 3
    assert "Traceback" not in result.stdout


LOGPROBS = """
import os, subprocess, sys, time
import httpx

server = subprocess.Popen([sys.executable, "-m", "service", "serve", "--port", "8971"])
# The first answer comes once the text worker has started, which takes minutes on a busy machine.
client = httpx.Client(base_url="http://127.0.0.1:8971", timeout=1200)
for _ in range(600):
    try:
        if client.get("/readyz").is_success:
            break
    except httpx.TransportError:
        pass
    time.sleep(1)
document = {
    "content": [{"type": "text", "text": "What colour is the sky?"}],
    "output_modalities": ["text"],
    "max_tokens": 8,
    "logprobs": 3,
}
answers = [client.post("/generate", json=document) for _ in range(2)]
server.terminate()
server.wait(60)
for answer in answers:
    answer.raise_for_status()
    token = answer.json()["content"][0]["logprobs"][0]
    assert len(token["top"]) == 3 and token["logprob"] <= 0, token
"""


def test_log_probabilities_without_a_compiler(prepared: Machine) -> None:
    (prepared.root / "home" / "user" / "logprobs.py").write_text(LOGPROBS)

    result = prepared.run("./dev python ../logprobs.py")

    assert result.returncode == 0, result.stdout


def test_the_suite_without_a_compiler(prepared: Machine) -> None:
    result = prepared.run("make test")

    counts = result.stdout.splitlines()[-1]
    assert result.returncode == 0, result.stdout[-20_000:]
    assert " passed" in counts and " failed" not in counts
    assert re.search(r"\d+ tests were skipped: they need a C\+\+ compiler", result.stdout)
