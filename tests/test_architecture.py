"""docs/architecture.md names files, packages and terms that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()


def test_every_path_exists() -> None:
    paths = re.findall(r"`((?:model|service|deploy|k8s|tests|docs)/[\w/.-]+|[\w-]+\.toml)`", TEXT)
    assert len(paths) > 30
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_every_link_leads_to_a_document() -> None:
    for name in re.findall(r"\]\(([\w.]+\.md)\)", TEXT):
        assert (ROOT / "docs" / name).is_file(), name


def test_every_package_and_flat_module_is_named() -> None:
    for top in ("model", "service"):
        for path in sorted((ROOT / top).iterdir()):
            package = path.is_dir() and (path / "__init__.py").is_file()
            module = path.suffix == ".py" and not path.stem.startswith("__")
            if package or (module and top == "model"):
                assert f"`{top}/{path.name}`" in TEXT, path.name


def test_every_named_class_exists() -> None:
    sources = "\n".join(
        path.read_text() for top in ("model", "service") for path in (ROOT / top).rglob("*.py")
    )
    for name in re.findall(r"`([A-Z]\w+)[`(]", TEXT):
        assert re.search(rf"^class {name}\b", sources, re.M), name


# A class, or an alias, which is no constant: it has small letters.
_TYPE = re.compile(r"^(?:class ([A-Z]\w*)|([A-Z]\w*[a-z]\w*) = )", re.M)


def test_no_two_types_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for top in ("model", "service"):
        for path in (ROOT / top).rglob("*.py"):
            for of_class, of_alias in _TYPE.findall(path.read_text()):
                places.setdefault(of_class or of_alias, []).append(path.as_posix())
    assert len(places) > 300
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}


def test_packages_are_small() -> None:
    """A package of more than six modules has a folder to give away."""
    for top in ("model", "service"):
        for package in (path.parent for path in (ROOT / top).rglob("__init__.py")):
            modules = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
            assert len(modules) <= 6, f"{package.relative_to(ROOT)}: {sorted(modules)}"
