"""The documentation site builds, and its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md"))]


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_the_site_builds_without_a_warning(tmp_path: Path):
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet",
         "-d", str(tmp_path / "doctrees"), str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "reference" / "attach.html").exists()


def test_files_that_pages_name_exist():
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in set(PAGES)
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not missing


def test_files_of_the_project_that_pages_name_exist():
    path = r"\b(?:gradscope|tui|tests|docs|examples|benchmarks)/[\w/.-]+\.(?:py|md|c|h|toml|svg|png)\b"
    named = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(path, page.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert {(page, name) for page, name in named if not (ROOT / name).exists()} == set()


def test_every_test_that_the_security_page_names_exists():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 30
    missing = [
        f"{file}::{name}"
        for file, name in named
        if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert not missing
