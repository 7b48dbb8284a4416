"""The console in a real browser: one Chromium and one gateway, which answers with the embedded model and a cloud."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import StreamInterrupted
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.request import Location
from hybrid_llm.policies import FixedPolicy, parse_policy
from hybrid_llm.router.spending.ledger import Price
from tests.fakes import FakeBackend
from tests.gateway.conftest import fakes, served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
AUDIT = (Path(__file__).parent / "console_audit.js").read_text(encoding="utf-8")
DRAWN = {
    "chat": ".receipt",
    "live": ".spark",
    "decisions": ".decisions li",
    "spending": ".amount",
    "policy": ".source",
    "dry-run": ".side",
}
"""Each view, and what is there once it is drawn."""
HOSTILE = "<img src=x onerror='window.pwned = 1'><script>window.pwned = 1</script> & <b>bold</b>"
QUESTION = "Is this review positive? 'A warm, funny film.'"
ALONE = "{version: 1, name: p, rules: [{prefer: [edge]}]}"
POLICY = """\
version: 1
name: console
tags:
  phi: {allow: [edge], detect: [medical_record]}
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
objectives: {budget: 1 USD/day, ttft: 400ms}
rules:
  - exclude: cloud
    when: request.task == "private"
    because: it is private
  - prefer: [edge, cloud]
    when: edge.predicted_ttft_ms >= 0
    because: the device answers in time
"""
CONTINUES = "resilience: {continue_streams: true}\n"
PRICE = Price(input_per_1k=0.01, output_per_1k=0.02, currency="USD")


class Cloud(FakeBackend):
    """Plays its script one chunk every 20 ms; what begins with `~` is reasoning."""

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        for chunk in self.stream(cleared):
            yield replace(chunk, text="", reasoning=chunk.text[1:]) if chunk.text.startswith("~") else chunk
            await asyncio.sleep(0.02)

    def play(self, *script: str | Exception) -> None:
        self._scripts = [script]
        self.requests.clear()


@dataclass
class World:
    """The gateway, the page, and whatever went wrong on it."""

    url: str
    edge: EdgeBackend
    cloud: Cloud
    policies: FixedPolicy
    page: Any
    hosts: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def open(self, view: str = "chat") -> Any:
        """A fresh page that shows *view*, with nothing remembered."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/#{view}")
        self.page.wait_for_selector("#prompt" if view == "chat" else "main h1")
        return self.page

    def ask(self, text: str, backend: str = "auto") -> Any:
        """Send *text*, wait for the receipt, and return the answer's element."""
        self.page.select_option("#backend", backend)
        self.page.fill("#prompt", text)
        self.page.keyboard.press("Enter")
        return self.answered()

    def answered(self) -> Any:
        self.page.wait_for_selector(".turn:last-child .why")
        return self.page.query_selector(".turn:last-child")


def until(page: Any, condition: str) -> None:
    """Wait for a condition; the page's own policy forbids `wait_for_function`, which makes code of a text."""
    deadline = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(10)


def facts(turn: Any) -> list[str]:
    return [each.text_content() for each in turn.query_selector_all(".badge")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def shared(browser: Any) -> Iterator[World]:
    edge, cloud = EdgeBackend(EdgeConfig()), Cloud("cloud", Location.CLOUD)
    locations = {edge.name: edge.location, cloud.name: cloud.location}
    policies = FixedPolicy(parse_policy(POLICY, backends=locations))
    with served(HybridLLM([edge, cloud], policies, prices={"cloud": PRICE})) as url:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
        context.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective))"
        )
        context.set_default_timeout(10_000)
        world = World(url, edge, cloud, policies, context.new_page())
        context.on("request", lambda request: world.hosts.add(urlsplit(request.url).netloc))
        context.on("console", lambda message: world.faults.append(message.text) if message.type != "log" else None)
        context.on("weberror", lambda error: world.faults.append(str(error.error)))
        yield world
        context.close()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """The shared world; afterwards nothing may have gone wrong on the page, nor have left for another host."""
    shared.cloud.play("ok")
    yield shared
    faults = [each for each in shared.faults if "Failed to load resource" not in each]  # an answer of 4xx, as asked for
    shared.faults.clear()
    assert faults == []
    assert shared.hosts == {urlsplit(shared.url).netloc}
    assert shared.page.context.cookies() == []


class TestChat:
    def test_an_answer_streams_and_shows_where_and_why(self, world: World) -> None:
        world.cloud.play(*(f"w{number} " for number in range(40)))
        page = world.open()
        page.select_option("#backend", "cloud")
        page.fill("#prompt", "hello")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('[aria-busy=true] .text')?.textContent.startsWith('w0')")
        assert "w39" not in page.text_content(".turn:last-child .text")
        turn = world.answered()
        assert turn.query_selector(".text").text_content().endswith("w39 ")
        assert facts(turn)[:2] == ["In the cloud: fake", "Left as it is"]
        assert turn.get_attribute("aria-busy") == "false"
        assert "In the cloud" in page.text_content("#announce")
        turn.query_selector(".why > summary").click()
        receipt = turn.query_selector(".receipt").inner_text()
        for part in ("Only cloud is eligible", "the call names cloud", "rules[1]", "edge.predicted_ttft_ms =", "USD"):
            assert part in receipt

    def test_a_tagged_prompt_stays_on_the_device(self, world: World) -> None:
        page = world.open()
        page.check("#tag-phi", force=True)
        turn = world.ask(QUESTION)
        assert facts(turn)[:2] == ["On this device: hybrid-demo-edge", "Nothing left the device"]
        assert page.is_disabled("#tag-phi")  # later turns hold this one
        assert facts(world.ask("And 12 + 30?"))[1] == "Nothing left the device"
        assert world.cloud.requests == []

    def test_what_the_cloud_saw_is_shown_on_demand(self, world: World) -> None:
        page = world.open()
        turn = world.ask("Write to ann@example.org and bob@example.org.", "cloud")
        assert facts(turn)[1] == "Left with 2 pseudonyms"
        turn.query_selector(".why > summary").click()
        assert "2 × EMAIL" in turn.query_selector(".receipt").inner_text()
        page.get_by_role("button", name="Show what the cloud saw").click()
        page.wait_for_selector(".receipt pre")
        assert page.text_content(".receipt pre") == world.cloud.requests[0].messages[0].content
        assert "example.org" not in page.text_content(".receipt pre")

    def test_an_answer_is_text_whatever_is_in_it(self, world: World) -> None:
        world.cloud.play("Look: ", HOSTILE)
        page = world.open()
        turn = world.ask(HOSTILE, "cloud")
        assert turn.query_selector(".text").text_content() == f"Look: {HOSTILE}"
        assert page.query_selector(".turn img, .turn script, .turn b") is None
        assert page.evaluate("window.pwned") is None

    def test_reasoning_stands_apart_and_is_not_sent_again(self, world: World) -> None:
        world.cloud.play("~first ", "~second", "the answer")
        page = world.open()
        turn = world.ask("hello", "cloud")
        turn.query_selector(".reasoning summary").click()
        assert page.inner_text(".reasoning .text") == "first second"
        assert turn.query_selector(".text:not(.muted)").text_content() == "the answer"
        world.ask("and?", "cloud")
        assert [message.content for message in world.cloud.requests[-1].messages] == ["hello", "the answer", "and?"]

    def test_an_answer_can_be_stopped_and_asked_for_again(self, world: World) -> None:
        world.cloud.play(*["word "] * 400)
        page = world.open()
        page.select_option("#backend", "cloud")
        page.fill("#prompt", "hello")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('.turn:last-child .text')?.textContent.includes('word')")
        page.keyboard.press("Escape")
        turn = world.answered()
        assert facts(turn)[0] == "Stopped"
        assert page.is_visible("text=Send")
        world.cloud.play("whole")
        page.get_by_role("button", name="Retry").click()
        until(page, "document.querySelector('.turn:last-child .text')?.textContent === 'whole'")
        world.answered()
        assert page.locator(".turn").count() == 2

    def test_a_failure_shows_why(self, world: World) -> None:
        page = world.open()
        page.check("#tag-phi", force=True)
        turn = world.ask("hello", "cloud")
        assert facts(turn) == ["No backend is eligible", "Nothing left the device"]
        assert "tag phi allows only edge" in turn.query_selector("[role=alert]").text_content()
        page.fill("#prompt", "and now?")
        page.select_option("#backend", "auto")
        page.keyboard.press("Escape")
        page.focus("#prompt")
        page.keyboard.press("Enter")
        page.wait_for_selector(".turn:nth-child(4) .why")
        assert page.locator(".turn").count() == 4  # the failed one stays in sight, and is not sent again

    def test_an_answer_that_breaks_off_shows_who_continued_it(self, world: World) -> None:
        before = world.policies.current
        cloud_first = POLICY.replace("prefer: [edge, cloud]", "prefer: [cloud, edge]") + CONTINUES
        world.cloud.play("Yes, ", StreamInterrupted("cut", backend="cloud"))
        page = world.open()
        try:
            world.policies.current = parse_policy(cloud_first, backends=before.backends)
            turn = world.ask(QUESTION)
        finally:
            world.policies.current = before
        turn.query_selector(".why > summary").click()
        receipt = turn.query_selector(".receipt").inner_text()
        assert "It broke off after 1 token, and edge continued it." in receipt
        assert re.search(r"cloud\s+StreamInterrupted", receipt)
        assert facts(turn)[:2] == ["On this device: hybrid-demo-edge", "Left as it is"]
        assert page.inner_text(".turn:last-child .text").startswith("Yes, ")

    def test_a_new_conversation_forgets(self, world: World) -> None:
        page = world.open()
        world.ask("secret words", "cloud")
        page.get_by_role("button", name="New conversation").click()
        assert "secret words" not in page.text_content("main")
        world.ask("hello", "cloud")
        assert [message.content for message in world.cloud.requests[-1].messages] == ["hello"]


class TestTheOtherViews:
    def test_signals_are_live(self, world: World) -> None:
        page = world.open("live")
        page.wait_for_selector(".card .badge")
        assert {"This device", "Network", "edge", "cloud"} <= set(page.locator(".card h3").all_text_contents())
        until(page, "document.querySelector('.spark polyline').getAttribute('points').includes(' ')")

    def test_decisions_open_without_a_text(self, world: World) -> None:
        world.open()
        world.ask("my very private words", "cloud")
        page = world.open("decisions")
        page.click(".decisions > li:first-child summary")
        page.wait_for_selector(".decisions > li:first-child .receipt")
        assert "Only cloud is eligible" in page.inner_text(".decisions > li:first-child")
        assert "private words" not in page.content()

    def test_spending_shows_the_budget(self, world: World) -> None:
        world.open()
        world.ask("hello", "cloud")
        page = world.open("spending")
        page.wait_for_selector(".amount")
        assert re.search(r"[\d.]+ USD", page.inner_text(".amount"))
        assert "left" in page.inner_text(".card")

    def test_the_policy_shows_what_its_rules_did(self, world: World) -> None:
        world.open()
        world.ask("hello", "cloud")
        page = world.open("policy")
        page.wait_for_selector(".source")
        assert page.locator(".source code").all_text_contents() == POLICY.rstrip("\n").split("\n")
        assert re.fullmatch(r"excluded \d+", page.locator(".times-badge").nth(0).inner_text())
        assert re.fullmatch(r"decided [1-9]\d*", page.locator(".times-badge").nth(1).inner_text())

    def test_a_dry_run_shows_errors_and_then_both_decisions(self, world: World) -> None:
        page = world.open("dry-run")
        page.wait_for_selector(".side")
        assert page.input_value("#editor") == POLICY
        page.fill("#editor", POLICY.replace("edge.predicted_ttft_ms", "edge.predicted_ttft"))
        page.wait_for_selector(".fault.error")
        assert page.inner_text(".fault.error .position") == "12:16"
        assert "did you mean `predicted_ttft_ms`?" in page.inner_text(".fault.error")
        assert page.locator(".editor-lines .faulty").all_inner_texts() == ["12\n"]
        page.click(".fault.error")
        assert page.evaluate("document.activeElement.selectionStart") == POLICY.index("predicted_ttft_ms")
        page.fill("#editor", POLICY.replace("prefer: [edge, cloud]", "prefer: [cloud, edge]"))
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".side:nth-child(2) .differs")
        assert page.locator(".side .card-head .badge").all_text_contents() == ["edge first", "cloud first"]
        assert world.cloud.requests == []
        assert "prefer: [edge, cloud]" in page.evaluate("fetch('console/data/policy').then((r) => r.text())")


def test_a_policy_that_takes_effect_shows_in_every_view(world: World) -> None:
    before = world.policies.current
    page = world.open()
    page.keyboard.press("Tab")
    page.evaluate("location.hash = 'dry-run'")
    page.wait_for_selector(".side")
    try:
        world.policies.current = parse_policy(POLICY.replace("phi:", "health:"), backends=before.backends)
        page.evaluate("dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_selector("#dry-tag-health", state="attached")
        page.evaluate("location.hash = 'chat'")
        page.wait_for_selector("#tag-health", state="attached")
        assert page.query_selector("#tag-phi") is None
    finally:
        world.policies.current = before


class TestEverybodyCanUseIt:
    def test_it_works_by_keys_alone(self, world: World) -> None:
        page = world.open("live")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        assert page.text_content("h1") == "Live signals"
        for number, view in enumerate(DRAWN, start=1):
            page.evaluate("document.activeElement.blur()")
            page.keyboard.press(str(number))
            page.wait_for_selector(f"#tab-{view}[aria-current=page]")
        page.keyboard.press("Shift+Slash")
        assert page.is_visible("#help")
        page.keyboard.press("Escape")
        assert not page.is_visible("#help")
        page.keyboard.press("/")
        page.keyboard.type(QUESTION)
        page.keyboard.press("Enter")
        world.answered()
        for _ in range(20):  # from the prompt to the receipt
            page.keyboard.press("Shift+Tab")
            if page.evaluate("document.activeElement.matches('.turn summary')"):
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert page.is_visible(".receipt")

    def test_the_theme_is_chosen_and_kept(self, world: World) -> None:
        page = world.open()
        page.evaluate("document.activeElement.blur()")
        ground = "getComputedStyle(document.body).backgroundColor"
        before = page.evaluate(ground)
        page.keyboard.press("t")
        after = page.evaluate(ground)
        world.open()
        assert before != after == page.evaluate(ground)
        page.evaluate("localStorage.clear()")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_names_contrast_and_width_are_right_in_every_view(self, world: World, scheme: str) -> None:
        world.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page = world.open()
        world.ask("Write to ann@example.org.", "cloud").query_selector(".why > summary").click()
        page.check("#tag-phi", force=True)
        world.ask("hello", "cloud")
        found = {}
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 800})
            for view in DRAWN:
                page.evaluate(f"location.hash = '{view}'")
                page.wait_for_selector(DRAWN[view])
                found[view, width] = page.evaluate(AUDIT)
        page.set_viewport_size({"width": 1280, "height": 800})
        assert {view: faults for view, faults in found.items() if faults} == {}

    def test_the_check_finds_what_is_wrong(self, world: World) -> None:
        page = world.open()
        page.evaluate("document.querySelector('.brand-name').style.color = 'color-mix(in srgb, canvas, gray)'")
        page.evaluate("document.querySelector('label[for=prompt]').remove()")
        page.evaluate("document.querySelector('.brand').style.minWidth = '2000px'")
        found = "\n".join(page.evaluate(AUDIT))
        for part in ("contrast", "no name: textarea#prompt", "px too wide"):
            assert part in found

    def test_nothing_moves_for_those_who_do_not_want_it(self, world: World) -> None:
        page = world.open()
        page.evaluate("document.querySelector('.log').innerText = ''")
        moving = "document.querySelector('.bar').getAnimations({subtree: true}).length"
        assert page.evaluate(moving) == 0
        assert page.evaluate("getComputedStyle(document.querySelector('.primary')).transitionDuration") == "0s"


class TestWhatCanBeMissing:
    def test_a_gateway_that_is_gone_is_said(self, world: World) -> None:
        page = world.open()
        page.context.set_offline(True)
        try:
            page.fill("#prompt", "hello")
            page.keyboard.press("Enter")
            page.wait_for_selector(".failure")
            assert "cannot be reached" in page.inner_text(".failure")
            assert page.inner_text("#link") == "Gateway not reached"
        finally:
            page.context.set_offline(False)
        world.ask(QUESTION)
        assert page.inner_text("#link") == ""

    def test_empty_views_say_what_to_do(self, browser: Any) -> None:
        edge, _ = fakes()
        with served(HybridLLM([edge], parse_policy(ALONE, backends={"edge": Location.EDGE}))) as url:
            page = browser.new_page()
            page.goto(f"{url}/#decisions")
            assert page.inner_text(".empty h2") == "No decision yet"
            page.goto(f"{url}/#spending")
            page.wait_for_selector("text=Nothing is spent")
            page.goto(f"{url}/#chat")
            page.wait_for_selector("text=the policy has none")
            page.context.close()

    def test_a_key_is_asked_for_and_kept_in_the_tab(self, browser: Any, tmp_path: Path) -> None:
        keys = tmp_path / "keys.json"
        keys.write_text(json.dumps([{"sha256": hashlib.sha256(b"hl-right").hexdigest(), "tenant": "acme"}]))
        locations = {"edge": Location.EDGE, "cloud": Location.CLOUD}
        with served(HybridLLM(list(fakes()), parse_policy(POLICY, backends=locations)), keys=keys) as url:
            page = browser.new_page()
            page.goto(f"{url}/")
            page.wait_for_selector("#key-dialog[open]")
            page.fill("#key", "hl-wrong")
            page.keyboard.press("Enter")
            page.wait_for_selector("#key-error:not(:empty)")
            page.fill("#key", "hl-right")
            page.keyboard.press("Enter")
            page.wait_for_selector("#prompt")
            page.fill("#prompt", "hello")
            page.keyboard.press("Enter")
            page.wait_for_selector(".why")
            assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 1, ""]
            page.reload()
            page.wait_for_selector("#prompt")
            page.context.close()
