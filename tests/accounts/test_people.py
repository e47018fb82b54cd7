"""Users and invites: adding, changing and shutting out; accepting an invite; who stays."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from app.accounts import people
from app.accounts.tables import Invite, Member, User, Workspace
from app.database import now
from tests.conftest import ADDRESS, Stack, browser, signed_in

GOOD = "four plain words in a row"
ODD_NAMES = ["سارة بنت علي", "שרה כהן", "👩‍🔬 Marie 🧪", "O'Brien <b>&amp;", "Ñandú", "山田太郎", "x" * 100]


def invite(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/invites", json={"name": "Grace", **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def token_of(link: str) -> str:
    return link.split("token=")[1]


def accept(app: FastAPI, link: str, **form: str) -> TestClient:
    client = browser(app)
    client.answer = client.post("/join", data={"token": token_of(link), "name": "Grace", **form})  # type: ignore[attr-defined]
    return client


def me(client: TestClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/api/v1/me").json()
    return answer


# --- invites --------------------------------------------------------------------------------------------------------------


def test_an_invite_says_who_invites_to_what_and_lets_one_person_in(stack: Stack, app: FastAPI, client: TestClient) -> None:
    made = invite(client, role="viewer", email="grace@example.org")
    assert made["link"].startswith(f"{ADDRESS}/join?token=")
    listed = client.get("/api/v1/invites").json()["data"]
    assert [each["id"] for each in listed] == [made["id"]] and "link" not in listed[0]
    guest = browser(app)
    shown = guest.get(made["link"])
    assert shown.status_code == 200 and "admin" in shown.text and "Default" in shown.text and "viewer" in shown.text
    assert guest.get(made["link"]).status_code == 200, "looking does not use it up"
    grace = accept(app, made["link"], password=GOOD, again=GOOD)
    assert grace.answer.headers["location"] == "/runs"  # type: ignore[attr-defined]
    assert me(grace)["name"] == "Grace" and me(grace)["role"] == "viewer"
    assert client.get("/api/v1/invites").json()["data"] == []
    again = accept(app, made["link"])
    assert again.answer.status_code == 401 and "used already" in again.answer.text  # type: ignore[attr-defined]
    assert guest.get(made["link"]).status_code == 401
    assert browser(app).post("/login", data={"name": "grace@example.org", "password": GOOD}).status_code == 303


def test_an_invited_person_may_stay_without_a_password(stack: Stack, app: FastAPI, client: TestClient) -> None:
    grace = accept(app, invite(client)["link"])
    assert me(grace)["name"] == "Grace"
    with stack.database.read() as session:
        assert session.scalar(select(User.password_hash).where(User.name == "Grace")) is None


def test_of_two_who_accept_one_invite_one_wins(stack: Stack, app: FastAPI, client: TestClient) -> None:
    link = invite(client)["link"]
    start = threading.Barrier(4)

    def take(number: int) -> int:
        start.wait()
        return int(accept(app, link, name=f"Guest {number}").answer.status_code)  # type: ignore[attr-defined]

    with ThreadPoolExecutor(4) as pool:
        answers = sorted(pool.map(take, range(4)))
    assert answers == [303, 401, 401, 401]
    with stack.database.read() as session:
        assert session.scalar(select(func.count()).select_from(User)) == 2


@pytest.mark.parametrize("ending", ["old", "revoked", "inviter"])
def test_an_invite_ends(stack: Stack, app: FastAPI, client: TestClient, as_role: Callable[[str], TestClient], ending: str) -> None:
    host = as_role("admin") if ending == "inviter" else client
    made = invite(host)
    if ending == "old":
        with stack.database.write() as session:
            left = session.scalar(select(Invite.expires_at - now()))
            assert left is not None and 71.9 * 3600 < left <= 72 * 3600 + 1
            session.execute(update(Invite).values(expires_at=now() - 1))
    elif ending == "revoked":
        assert client.delete(f"/api/v1/invites/{made['id']}").status_code == 204
        assert client.delete(f"/api/v1/invites/{made['id']}").status_code == 404
    else:
        assert client.delete(f"/api/v1/users/{me(host)['user_id']}").status_code == 204
    assert accept(app, made["link"]).answer.status_code == 401  # type: ignore[attr-defined]
    assert client.get("/api/v1/invites").json()["data"] == []


def test_a_form_that_is_wrong_leaves_the_invite_open(stack: Stack, app: FastAPI, client: TestClient) -> None:
    link = invite(client)["link"]
    for form, words in (
        ({"name": "admin"}, "called “admin” here already"),
        ({"name": " "}, "needs a name"),
        ({"name": "x" * 10_000}, "at most 100 characters"),
        ({"name": "a\u202eb"}, "cannot be seen"),
        ({"password": "short", "again": "short"}, "at least 12 characters"),
        ({"password": GOOD, "again": "other"}, "not the same"),
    ):
        answer = accept(app, link, **form).answer  # type: ignore[attr-defined]
        assert answer.status_code in (409, 422) and words in unescape(answer.text), form
        assert not answer.cookies
    assert accept(app, link).answer.status_code == 303  # type: ignore[attr-defined]


def test_another_site_cannot_accept_for_somebody(app: FastAPI, client: TestClient) -> None:
    link = invite(client)["link"]
    answer = browser(app).post("/join", data={"token": token_of(link), "name": "Eve"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert accept(app, link).answer.status_code == 303  # type: ignore[attr-defined]


def test_somebody_who_is_here_joins_another_workspace_by_invite(stack: Stack, app: FastAPI, client: TestClient) -> None:
    grace = accept(app, invite(client, role="viewer")["link"])
    lab = client.post("/api/v1/workspaces", json={"name": "Lab"}).json()["id"]
    second = invite(client, name="Grace again", role="engineer", workspace_id=lab)
    assert "Join as <bdi>Grace</bdi>" in grace.get(second["link"]).text
    assert grace.post("/join", data={"token": token_of(second["link"]), "as_me": "yes"}).headers["location"] == "/runs"
    assert me(grace)["workspace"] == "Lab" and me(grace)["role"] == "engineer"
    with stack.database.read() as session:
        assert session.scalar(select(func.count()).select_from(User)) == 2


def test_an_admin_of_a_workspace_invites_to_it_alone_and_makes_no_admins(
    stack: Stack, client: TestClient, as_role: Callable[[str], TestClient]
) -> None:
    boss = as_role("engineer")
    lab = client.post("/api/v1/workspaces", json={"name": "Lab"}).json()["id"]
    path = f"/api/v1/workspaces/{stack.workspace_id}/members/{me(boss)['user_id']}"
    assert client.put(path, json={"role": "admin"}).status_code == 200
    assert me(boss)["role"] == "admin" and not me(boss)["studio"]
    theirs = invite(client, name="For Lab", workspace_id=lab)
    assert boss.post("/api/v1/invites", json={"name": "x", "workspace_id": lab}).status_code == 404
    assert boss.delete(f"/api/v1/invites/{theirs['id']}").status_code == 404
    assert boss.post("/api/v1/invites", json={"name": "x", "role": "admin"}).status_code == 403
    invite(boss, name="Ours", role="viewer")
    assert [each["name"] for each in boss.get("/api/v1/invites").json()["data"]] == ["Ours"]
    assert boss.post("/api/v1/users", json={"name": "x"}).status_code == 403


def make_boss(stack: Stack, client: TestClient, boss: TestClient, role: str = "admin") -> int:
    path = f"/api/v1/workspaces/{stack.workspace_id}/members/{me(boss)['user_id']}"
    return int(client.put(path, json={"role": role}).status_code)


@pytest.mark.parametrize("how", ["removed", "demoted", "lowered everywhere"])
def test_an_admin_of_a_workspace_who_is_taken_out_does_not_come_back_by_an_invite_of_their_own(
    stack: Stack, app: FastAPI, client: TestClient, as_role: Callable[[str], TestClient], how: str
) -> None:
    boss = as_role("engineer")
    boss_id = me(boss)["user_id"]
    assert make_boss(stack, client, boss) == 200
    kept = invite(client, name="From the studio")
    own = invite(boss, name="Back door")
    lab = client.post("/api/v1/workspaces", json={"name": "Lab"}).json()["id"]
    assert client.put(f"/api/v1/workspaces/{lab}/members/{boss_id}", json={"role": "engineer"}).status_code == 200
    if how == "removed":
        assert client.delete(f"/api/v1/workspaces/{stack.workspace_id}/members/{boss_id}").status_code == 204
    elif how == "demoted":
        assert make_boss(stack, client, boss, "viewer") == 200
    else:
        assert client.patch(f"/api/v1/users/{boss_id}", json={"role": "viewer"}).status_code == 200
    assert [each["name"] for each in client.get("/api/v1/invites").json()["data"]] == ["From the studio"]
    with stack.database.write() as session:  # as if it had not been taken back
        session.execute(update(Invite).values(revoked_at=None))
    assert browser(app).get(own["link"]).status_code == 401
    assert accept(app, own["link"]).answer.status_code == 401  # type: ignore[attr-defined]
    assert accept(app, kept["link"]).answer.status_code == 303  # type: ignore[attr-defined]


def test_an_admin_of_a_workspace_takes_out_no_admin_of_the_studio(
    stack: Stack, client: TestClient, as_role: Callable[[str], TestClient]
) -> None:
    boss, second = as_role("engineer"), as_role("admin")
    lab = client.post("/api/v1/workspaces", json={"name": "Lab"}).json()["id"]
    assert client.put(f"/api/v1/workspaces/{lab}/members/{me(second)['user_id']}", json={"role": "admin"}).status_code == 200
    assert make_boss(stack, client, boss) == 200
    place = f"/api/v1/workspaces/{stack.workspace_id}/members/{me(second)['user_id']}"
    refused = boss.delete(place)
    assert refused.status_code == 409 and "admin of the studio" in refused.json()["error"]["message"]
    assert client.delete(place).status_code == 204


def test_the_page_of_people_invites_and_takes_back(app: FastAPI, client: TestClient) -> None:
    answer = client.post("/settings/invites", data={"name": "Grace <b>", "role": "viewer"})
    assert answer.status_code == 200 and "Grace &lt;b&gt;" in answer.text
    shown = re.search(r'id="made-link">([^<]+)<', answer.text)
    assert shown is not None and token_of(unescape(shown[1])) not in client.get("/settings/people").text
    invited = client.get("/api/v1/invites").json()["data"][0]["id"]
    done = client.post(f"/settings/invites/{invited}/revoke")
    assert done.status_code == 303 and "taken back" in client.get(done.headers["location"]).text
    assert client.post("/settings/invites", data={"name": ""}).status_code == 422


def test_an_invite_with_a_key_is_made_once_and_its_link_shown_once(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = client.post("/api/v1/invites", json={"name": "Grace"}, headers=headers).json()
    again = client.post("/api/v1/invites", json={"name": "Grace"}, headers=headers).json()
    assert again == {**first, "link": None}


# --- users ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_all_scripts_are_kept_as_they_are(app: FastAPI, client: TestClient, name: str) -> None:
    made = client.post("/api/v1/users", json={"name": name}).json()
    assert made["name"] == name
    shown = client.get("/settings/people").text
    assert name in unescape(shown) and "<b>&amp;" not in shown.replace("&lt;b&gt;&amp;amp;", "")
    person = browser(app)
    assert person.get(made["link"]).status_code == 303
    assert name in unescape(person.get("/settings").text)


@pytest.mark.parametrize("name", ["", "   ", "x" * 10_000, "a\nb", "a\x00b", "\u202eadmin", "admin", "ADMIN"])
def test_names_that_will_not_do_are_refused_with_the_field(client: TestClient, name: str) -> None:
    answer = client.post("/api/v1/users", json={"name": name})
    assert answer.status_code in (409, 422) and answer.json()["error"]["field"] == "name"
    assert len(answer.json()["error"]["message"]) < 300
    assert len(client.get("/api/v1/users?everywhere=true").json()["data"]) == 1


def test_nobody_goes_by_the_address_or_the_id_of_another(
    stack: Stack, app: FastAPI, client: TestClient, as_role: Callable[[str], TestClient]
) -> None:
    bob = accept(app, invite(client, name="Bob", email="bob@example.org")["link"], name="Bob", password=GOOD, again=GOOD)
    eve = as_role("viewer")
    for word in ("bob@example.org", "Bob@Example.org", me(bob)["user_id"]):
        refused = eve.post("/settings/name", data={"name": word, "email": ""})
        assert refused.status_code == 409 and "here already" in refused.text
        assert client.post("/api/v1/users", json={"name": word}).status_code == 409
    assert client.post("/api/v1/users", json={"name": "carol@example.org"}).status_code == 201
    assert eve.post("/settings/name", data={"name": "Eve", "email": "carol@example.org"}).status_code == 409
    assert bob.post("/settings/name", data={"name": "bob@example.org", "email": "bob@example.org"}).status_code == 303, "one's own"
    with stack.database.write() as session:  # as it could be before names and addresses were looked at together
        session.execute(update(User).where(User.id == me(eve)["user_id"]).values(name="bob@example.org"))
    assert browser(app).post("/login", data={"name": "bob@example.org", "password": GOOD}).status_code == 303


def test_the_last_admin_can_be_neither_lowered_nor_disabled(stack: Stack, client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    second = as_role("admin")
    mine, theirs = f"/api/v1/users/{stack.admin_id}", f"/api/v1/users/{me(second)['user_id']}"
    assert client.delete(mine).status_code == 409, "not oneself"
    assert client.patch(theirs, json={"role": "engineer"}).json()["role"] == "engineer"
    for answer in (client.patch(mine, json={"role": "viewer"}), client.delete(mine), client.patch(mine, json={"disabled": True})):
        assert answer.status_code == 409 and answer.json()["error"]["message"].endswith(".")
    with stack.database.read() as session:
        admin = session.get(User, stack.admin_id)
        assert admin is not None and admin.role == "admin" and admin.disabled_at is None
    assert "is the last admin" in unescape(client.post(f"/settings/people/{stack.admin_id}/role", data={"role": "viewer"}).text)


def test_two_admins_cannot_lower_each_other_at_the_same_moment(stack: Stack, app: FastAPI, client: TestClient) -> None:
    with stack.database.write() as session:
        other_id = people.add_user(session, "second", "admin").id
    other = signed_in(app, stack, other_id)
    start = threading.Barrier(2)

    def lower(pair: tuple[TestClient, str]) -> int:
        start.wait()
        return int(pair[0].patch(f"/api/v1/users/{pair[1]}", json={"role": "viewer"}).status_code)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lower, [(client, other_id), (other, stack.admin_id)]))
    with stack.database.read() as session:
        assert session.scalar(select(func.count()).select_from(User).where(User.role == "admin")) == 1


def test_a_lowered_role_holds_at_once(stack: Stack, app: FastAPI, client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    ada = as_role("engineer")
    ada_id = me(ada)["user_id"]
    made = ada.post("/api/v1/tokens", json={"name": "script"}).json()["token"]
    script = TestClient(app, base_url=ADDRESS, headers={"Authorization": f"Bearer {made}"}, follow_redirects=False)
    assert ada.get("/runs/new").status_code == 200
    place = f"/api/v1/workspaces/{stack.workspace_id}/members/{ada_id}"
    assert client.put(place, json={"role": "viewer"}).status_code == 200
    assert ada.get("/runs/new").status_code == 403 and ada.get("/runs").status_code == 200
    assert script.post("/api/v1/runs", json={}).status_code == 403
    assert client.patch(f"/api/v1/users/{ada_id}", json={"role": "rater"}).status_code == 200
    assert ada.get("/runs").status_code == 401, "signed out"
    assert script.get("/api/v1/runs").status_code == 403


def test_disabling_ends_everything_and_enabling_lets_in_again(
    app: FastAPI, client: TestClient, as_role: Callable[[str], TestClient]
) -> None:
    ada = as_role("engineer")
    ada_id = me(ada)["user_id"]
    made = ada.post("/api/v1/tokens", json={"name": "script"}).json()["token"]
    script = TestClient(app, base_url=ADDRESS, headers={"Authorization": f"Bearer {made}"})
    link = client.post(f"/api/v1/users/{ada_id}/link").json()["link"]
    assert client.delete(f"/api/v1/users/{ada_id}").status_code == 204
    assert ada.get("/api/v1/me").status_code == script.get("/api/v1/me").status_code == 401
    assert browser(app).get(link).status_code == 401
    assert client.patch(f"/api/v1/users/{ada_id}", json={"disabled": False}).json()["disabled_at"] is None
    assert script.get("/api/v1/me").status_code == 200
    fresh = browser(app)
    assert fresh.get(client.post(f"/api/v1/users/{ada_id}/link").json()["link"]).status_code == 303


# --- workspaces -----------------------------------------------------------------------------------------------------------


def test_one_switches_between_workspaces_and_sees_only_the_present_one(stack: Stack, app: FastAPI, client: TestClient) -> None:
    assert "switcher" not in client.get("/runs").text, "with one workspace there is nothing to switch"
    lab = client.post("/api/v1/workspaces", json={"name": "Lab 🧪"}).json()["id"]
    made = client.post("/api/v1/tokens", json={"name": "of the first"}).json()
    assert "switcher" in client.get("/runs").text
    assert client.post("/settings/workspace", data={"workspace": lab}).status_code == 303
    assert me(client)["workspace"] == "Lab 🧪" and "Lab 🧪" in client.get("/runs").text
    assert client.get("/api/v1/tokens").json()["data"] == []
    assert client.delete(f"/api/v1/tokens/{made['id']}").status_code == 404
    again = signed_in(app, stack, stack.admin_id)
    assert me(again)["workspace_id"] == lab, "a new browser opens where one worked last"
    assert client.post("/settings/workspace", data={"workspace": stack.workspace_id}).status_code == 303
    assert [each["id"] for each in client.get("/api/v1/tokens").json()["data"]] == [made["id"]]
    script = TestClient(app, base_url=ADDRESS, headers={"Authorization": f"Bearer {made['token']}"})
    assert script.post("/settings/workspace", data={"workspace": lab}).status_code == 403
    assert [each["id"] for each in script.get("/api/v1/workspaces").json()["data"]] == [stack.workspace_id]


def test_a_workspace_one_does_not_belong_to_is_not_there(stack: Stack, client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    lab = client.post("/api/v1/workspaces", json={"name": "Lab"}).json()["id"]
    ada = as_role("engineer")
    assert ada.post("/settings/workspace", data={"workspace": lab}).status_code == 404
    assert me(ada)["workspace_id"] == stack.workspace_id
    assert client.put(f"/api/v1/workspaces/{stack.workspace_id}/members/{me(ada)['user_id']}", json={"role": "admin"}).status_code == 200
    for answer in (
        ada.get(f"/api/v1/workspaces/{lab}/members"),
        ada.patch(f"/api/v1/workspaces/{lab}", json={"name": "Mine"}),
        ada.get(f"/settings/workspaces/{lab}"),
        ada.put(f"/api/v1/workspaces/{lab}/members/{me(ada)['user_id']}", json={"role": "admin"}),
        ada.delete(f"/api/v1/workspaces/{lab}/members/{stack.admin_id}"),
    ):
        assert answer.status_code == 404


def test_members_are_added_changed_and_taken_out(stack: Stack, client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    ada = as_role("viewer")
    ada_id = me(ada)["user_id"]
    lab = client.post("/api/v1/workspaces", json={"name": "Lab"}).json()["id"]
    place = f"/api/v1/workspaces/{lab}/members/{ada_id}"
    assert client.put(place, json={"role": "engineer"}).json()["role"] == "engineer"
    assert ada.post("/settings/workspace", data={"workspace": lab}).status_code == 303
    assert me(ada)["role"] == "engineer"
    token = ada.post("/api/v1/tokens", json={"name": "in the lab"}).json()
    assert client.delete(place).status_code == 204
    assert me(ada)["workspace_id"] == stack.workspace_id and me(ada)["role"] == "viewer"
    script = TestClient(ada.app, base_url=ADDRESS, headers={"Authorization": f"Bearer {token['token']}"})
    assert script.get("/api/v1/me").status_code == 401
    last = client.delete(f"/api/v1/workspaces/{stack.workspace_id}/members/{ada_id}")
    assert last.status_code == 409 and "no other workspace" in last.json()["error"]["message"]
    own = client.put(f"/api/v1/workspaces/{lab}/members/{stack.admin_id}", json={"role": "viewer"})
    assert own.status_code == 409, "an admin of the studio is admin everywhere"


def test_workspaces_have_names_of_their_own(client: TestClient) -> None:
    assert client.post("/api/v1/workspaces", json={"name": "Default"}).status_code == 409
    assert client.post("/api/v1/workspaces", json={"name": "x" * 10_000}).status_code == 422
    lab = client.post("/api/v1/workspaces", json={"name": "מעבדה"}).json()["id"]
    assert client.patch(f"/api/v1/workspaces/{lab}", json={"name": "Default"}).status_code == 409
    assert client.post(f"/settings/workspaces/{lab}/name", data={"name": "Lab"}).status_code == 303
    assert "Lab" in client.get("/settings/workspaces").text


def test_every_admin_of_the_studio_is_admin_where_they_belong(
    stack: Stack, client: TestClient, as_role: Callable[[str], TestClient]
) -> None:
    ada = as_role("viewer")
    assert client.patch(f"/api/v1/users/{me(ada)['user_id']}", json={"role": "admin"}).status_code == 200
    with stack.database.read() as session:
        roles = session.scalars(select(Member.role).where(Member.workspace_id == select(Workspace.id).limit(1).scalar_subquery())).all()
    assert set(roles) == {"admin"}
