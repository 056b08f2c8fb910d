"""Two signed-in users edit the same run at once on one server."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from analysis.contract.jobs import current_user
from analysis.tracing.edits import describe, parse, to_text
from analysis.tracing.specs import TraceSpec
from dash_app.security.users import Users
from tests.security.conftest import PASSWORD, MakeApp, Watched, signed_in
from tests.security.live import served
from tests.support.dash_page import Page

#: Two edits of each user; the second is made while the other user works.
EDITS = {
    "alice": ("ablate:mlp_output:1:all:0:zero", "ablate:head_output:1:0:all:mean"),
    "bob": ("cut:1:all:1:0", "ablate:neuron:2:7:1:zero"),
}


class Recording(Watched):
    """A service that notes the edits of each user's requests."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, set[str]] = defaultdict(set)

    def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
        if isinstance(subject, TraceSpec):
            self.asked[current_user.get()] |= set(map(to_text, subject.edits))
        return super().ask(subject, spec, job)


def sentences(name: str, count: int) -> list[str]:
    return [describe(parse(text)) for text in EDITS[name][:count]]


def test_two_signed_in_users_never_see_each_others_edits(make_app: MakeApp, users: Users) -> None:
    users.add("bob", PASSWORD)
    service = Recording()
    app = make_app(service, login="users")
    with served(app) as url:
        pages = {name: Page(url) for name in EDITS}
        for name, page in pages.items():
            client = signed_in(app, name)
            cookies = [f"{cookie.key}={cookie.value}" for cookie in client._cookies.values()]
            page._headers["Cookie"] = "; ".join(cookies)
            page.open("?prompt=Hello+you&new=0")
        for count in (1, 2):
            for name, page in pages.items():
                page.go(f"with=edits:{EDITS[name][count - 1]}")
            for name, page in pages.items():
                shown = str(page.props["edits-cards.children"])
                (other,) = set(EDITS) - {name}
                assert all(sentence in shown for sentence in sentences(name, count))
                assert not any(sentence in shown for sentence in sentences(other, 2))
                assert page.props["run.data"]["edits"] == list(EDITS[name][:count])
        for page in pages.values():
            page.go("edits=none")
            assert not page.props["edits-cards.children"]
            page.close()
    own = {f"user:{name}": set(edits) for name, edits in EDITS.items()}
    assert {user: edits for user, edits in service.asked.items() if user} == own
