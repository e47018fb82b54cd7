"""Settings, signing in and the frame around every page, in a browser: by keyboard, on a phone, without faults of access."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from app.accounts import invites, members, people
from app.accounts.schemas import Principal
from tests.browser.conftest import Studio, watch

pytestmark = pytest.mark.browser

OPTIONS = {"preload": False, "runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}
SECTIONS = ["", "/sessions", "/tokens", "/people", "/workspaces", "/limits", "/audit?check=1"]
GOOD = "four plain words in a row"


@pytest.fixture
def lab(empty_studio: Studio) -> str:
    """Id of a second workspace, with some people in both."""
    here = empty_studio
    with here.database.write() as session:
        admin = Principal(here.admin_id, "admin", here.workspace_id, "admin", "session", "none", studio=True)
        lab = members.create_workspace(session, admin, "Vision lab").id
        for name, role in (("Ada Lovelace", "engineer"), ("سارة بنت علي", "viewer"), ("👩‍🔬 Marie <b>", "rater"), ("x" * 100, "viewer")):
            user = people.add_user(session, name, role)
        members.set_member(session, admin, lab, user.id, "engineer")
        invites.invite(session, admin, here.settings, name="Alan", role="viewer", workspace_id=lab)
    return lab


@pytest.fixture
def own(browser: Browser, empty_studio: Studio, lab: str) -> Iterator[Page]:
    """A page of the admin of that studio; an error in its console fails the test."""
    context = browser.new_context(base_url=empty_studio.url, viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.add_cookies(empty_studio.cookies())  # type: ignore[arg-type]  # plain dictionaries, as playwright reads them
    page = context.new_page()
    found = watch(page, empty_studio.url)
    yield page
    page.unroute_all(behavior="ignoreErrors")
    context.close()
    assert not found, found


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 1440), ("light", 390)])
def test_no_page_of_the_settings_shuts_anybody_out(own: Page, empty_studio: Studio, lab: str, theme: str, width: int) -> None:
    own.set_viewport_size({"width": width, "height": 844})
    own.context.add_cookies([{"name": "theme", "value": theme, "url": empty_studio.url}])
    wrong = []
    for path in [*(f"/settings{part}" for part in SECTIONS), f"/settings/workspaces/{lab}", "/runs"]:
        own.goto(path)
        if own.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append(f"{path} is wider than the screen")
        for found in Axe().run(own, options=OPTIONS).response["violations"]:
            wrong.append(f"{path}: {found['id']} {[node['html'][:120] for node in found['nodes']][:2]}")
    assert wrong == []


def test_an_invited_person_sets_a_password_and_comes_back_with_it(browser: Browser, empty_studio: Studio) -> None:
    with empty_studio.database.write() as session:
        _, link = invites.invite(session, None, empty_studio.settings, name="Grace", role="viewer", workspace_id=empty_studio.workspace_id)
    context = browser.new_context(base_url=empty_studio.url)
    page = context.new_page()
    found = watch(page, empty_studio.url)
    page.goto(link)
    expect(page.get_by_role("heading", name="Join Default")).to_be_visible()
    assert Axe().run(page, options=OPTIONS).response["violations"] == []
    page.locator("#f-password").fill(GOOD)
    page.get_by_label("The same again").fill("something else")
    page.get_by_role("button", name="Accept and sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the same")
    expect(page.get_by_label("Your name")).to_have_value("Grace")
    page.locator("#f-password").fill(GOOD)
    page.get_by_label("The same again").fill(GOOD)
    page.keyboard.press("Enter")
    expect(page.get_by_text("viewer in Default")).to_be_visible()
    page.locator(".user summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Name or e-mail address")).to_be_visible()
    assert Axe().run(page, options=OPTIONS).response["violations"] == []
    page.get_by_label("Name or e-mail address").fill("Grace")
    page.locator("#f-password").fill("wrong wrong wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("do not let anybody in")
    page.locator("#f-password").fill(GOOD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/runs$"))
    context.close()
    assert not [each for each in found if "401" not in each], found


def test_one_switches_workspaces_by_keyboard(own: Page) -> None:
    own.goto("/runs")
    own.wait_for_load_state()
    own.locator(".switcher summary").focus()
    own.keyboard.press("Enter")
    expect(own.get_by_role("button", name="Vision lab")).to_be_visible()
    own.keyboard.press("Escape")
    expect(own.get_by_role("button", name="Vision lab")).to_be_hidden()
    own.keyboard.press("Enter")
    own.get_by_role("button", name="Vision lab").focus()
    own.keyboard.press("Enter")
    expect(own.locator(".user")).to_contain_text("admin in Vision lab")
    own.reload()
    expect(own.locator(".switcher summary")).to_contain_text("Vision lab")


def test_what_cannot_be_undone_is_asked_first(own: Page) -> None:
    own.goto("/settings/tokens")
    own.get_by_label("What it is for").fill("nightly")
    own.locator("input[value=runs]").check()
    own.get_by_role("button", name="Make a token").click()
    expect(own.get_by_role("status").filter(has_text="Copy it now")).to_be_visible()
    own.wait_for_load_state()  # scripts have started
    own.get_by_role("button", name="Revoke nightly").click()
    dialog = own.get_by_role("alertdialog")
    expect(dialog).to_contain_text("Revoke “nightly”?")
    own.keyboard.press("Escape")
    expect(own.get_by_role("button", name="Revoke nightly")).to_be_visible()
    own.get_by_role("button", name="Revoke nightly").click()
    dialog.get_by_role("button", name="Revoke").click()
    expect(own.get_by_role("status").filter(has_text="The token is revoked")).to_be_visible()
    expect(own.get_by_role("heading", name="None yet")).to_be_visible()


def test_the_theme_is_chosen_on_the_page_and_kept(own: Page) -> None:
    own.goto("/settings")
    own.get_by_role("radio", name="Dark").check(force=True)
    own.get_by_role("button", name="Use it").click()
    expect(own.locator("html")).to_have_attribute("data-theme", "dark")
    own.get_by_role("radio", name="System").check(force=True)
    own.get_by_role("button", name="Use it").click()
    expect(own.locator("html")).not_to_have_attribute("data-theme", "dark")
