"""Style sheets and scripts: kept by browsers as long as their version is the present one, checked for changes otherwise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app import assets
from app.settings import files


def test_pages_name_files_by_version_and_browsers_keep_them(anonymous: TestClient) -> None:
    page = anonymous.get("/login").text
    named = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
    assert named and all(path.startswith(f"/static/{assets.version}/") for path in named)
    for path in named:
        answer = anonymous.get(path)
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"]


def test_what_a_file_imports_has_its_version_too(anonymous: TestClient) -> None:
    """Relative addresses only: an absolute one would lose the version."""
    for file in [*files("static").glob("css/*.css"), *files("static").glob("js/**/*.js")]:
        text = file.read_text()
        for path in re.findall(r'url\("([^"]+)"\)|(?:from|import\() ?"([^"]+)"', text):
            target = "".join(path)
            assert target.startswith(".") or "/" not in target, f"{file.name} names {target}"
            assert (file.parent / target).is_file(), f"{file.name} names {target}"
    assert anonymous.get(assets.asset("css/tokens.css")).status_code == 200


@pytest.mark.parametrize("prefix", ["/static", "/static/v-0123456789ab"])
def test_files_without_the_present_version_are_checked_for_changes(anonymous: TestClient, prefix: str) -> None:
    answer = anonymous.get(f"{prefix}/css/app.css")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-cache"
    again = anonymous.get(answer.request.url.path, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("path", ["/../pyproject.toml", "/..%2fpyproject.toml", "/%2e%2e/pyproject.toml", "//etc/passwd", "/"])
def test_nothing_outside_the_folder_is_served(anonymous: TestClient, path: str) -> None:
    assert anonymous.get(f"/static{path}").status_code == 404
    assert anonymous.get(f"/static/{assets.version}{path}").status_code == 404


def test_an_edit_changes_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "LOOK_SECONDS", 0.0)
    (tmp_path / "css").mkdir()
    file = tmp_path / "css" / "a.css"
    file.write_text("a {}")
    version = assets.Version(tmp_path)
    first = str(version)
    assert re.fullmatch("v-[0-9a-f]{12}", first) and str(version) == first
    file.touch()  # another time, the same content: the same version on every server of a studio
    assert str(version) == first
    file.write_text("a { color: red }")
    second = str(version)
    file.rename(tmp_path / "css" / "b.css")
    assert len({first, second, str(version)}) == 3
