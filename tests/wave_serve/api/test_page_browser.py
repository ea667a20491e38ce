"""The page at / in a real browser: what a visitor pastes, sees, asks, stops and copies."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, reply_json, stream, when
from helpers.running import Running, running, settings_for
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from wave_serve.keys.file import entry_for

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")

KEY = "sk-wave-0123456789abcdef0123456789abcdef"
MODEL = {"train_length": 100, "validated_length": 400, "max_tokens": 1000, "default_max_completion_tokens": 20}
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}\n\n'
Open = Callable[..., Page]
expect.set_options(timeout=20_000)  # a bound against hanging; a browser is slow on a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; of the module only, since playwright keeps an event loop running in this thread."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """A fake upstream of a model without a chat template, which answers "one two"."""
    with FakeUpstream(max_model_len=100_000) as fake:
        templated = fake.answers["/tokenize"]

        async def tokenize(connection: Connection) -> None:
            refusal = reply_json({"error": {"message": "you must provide a chat template"}}, "400 Bad Request")
            await (refusal if b'"messages"' in connection.body else templated)(connection)

        fake.answers |= {"/tokenize": tokenize, "/v1/completions": stream(delta("one"), delta(" two"), USAGE, DONE)}
        yield fake


@pytest.fixture
def gateway(upstream: FakeUpstream) -> Iterator[Running]:
    """A gateway with the page before it."""
    with running(settings_for(upstream, model=MODEL, timeouts={"retry_after": 1})) as one:
        yield one


@pytest.fixture
def open_page(browser: Browser, gateway: Running) -> Iterator[Open]:
    """Opens the page as a new visitor; the test fails if its script does."""
    contexts, faults = [], []

    def open_page(url: str = gateway.url, **options: object) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def paste(page: Page, text: str, where: str = "Document") -> None:
    """Pastes by keyboard."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.get_by_label(where, exact=True).focus()
    page.keyboard.press("Control+V")


def headline(page: Page) -> Locator:
    """The large line: the tokens of what is typed."""
    return page.locator("#headline")


def receipt(page: Page) -> dict[str, str]:
    """The lines of the receipt, which has come."""
    expect(page.get_by_role("heading", name="Receipt")).to_be_visible()
    return dict(zip(page.locator("dt").all_text_contents(), page.locator("dd").all_text_contents(), strict=True))


def sent(upstream: FakeUpstream) -> list[dict]:
    """Bodies of the generations that reached the upstream."""
    return [json.loads(one.body) for one in upstream.requests if one.path.endswith("/completions")]


def test_it_loads_from_the_gateway_alone_and_shows_the_models_zones(open_page: Open, gateway: Running) -> None:
    asked: list[str] = []
    page = open_page("about:blank")
    page.on("request", lambda request: asked.append(request.url))
    page.goto(gateway.url)
    expect(page.locator("#legend li")).to_have_text(
        ["trained to 100", "validated to 400", "hard to 1,000", "over the cap"]
    )
    expect(page.locator("#model-name")).to_have_text("fake")
    assert {re.match(r"(\w+://[^/]+/|data:)", url)[1] for url in asked} <= {f"{gateway.url}/", "data:"}


@pytest.mark.parametrize(
    ("characters", "tokens", "zone"),
    [(50, "51", "trained"), (250, "251", "validated"), (700, "701", "hard"), (1500, "1,501", "over")],
)
def test_a_pasted_document_is_counted_and_put_into_its_zone(
    open_page: Open, characters: int, tokens: str, zone: str
) -> None:
    page = open_page()
    paste(page, "x" * characters)
    expect(headline(page)).to_have_text(f"{tokens} tokens")
    expect(page.locator("#legend [aria-current]")).to_have_class(zone)
    expect(page.get_by_role("img", name=f"{tokens} tokens")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text=f"{tokens} tokens")).to_have_count(1)


def test_an_answer_that_may_reach_a_further_zone_is_said(open_page: Open) -> None:
    page = open_page()
    paste(page, "x" * 90)
    expect(page.locator("#place")).to_have_text(
        "Within the 100 tokens that the model was trained at. With up to 20 for the answer it may reach past that."
    )
    expect(page.locator("#legend [aria-current]")).to_have_class("validated")


def test_an_answer_that_is_shortened_to_what_fits_is_said(open_page: Open, upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, model=MODEL | {"clamp_max_tokens": True})) as one:
        page = open_page(one.url)
        page.get_by_label("At most").fill("990")
        page.get_by_label("Question").fill("x" * 50)
        expect(page.locator("#place")).to_contain_text("The answer is shortened to 949 tokens.")
        expect(page.locator("#policies")).to_be_hidden()


def test_over_the_cap_it_shows_what_each_policy_keeps_and_sends_the_one_that_is_chosen(
    open_page: Open, upstream: FakeUpstream
) -> None:
    page = open_page()
    paste(page, "x" * 1500)
    page.get_by_label("Question").fill("y" * 10)
    expect(headline(page)).to_have_text("1,512 tokens")
    rows = page.get_by_role("group", name="What should happen to it?").locator("label")
    expect(rows).to_have_count(4)
    told = [" ".join(row.split()) for row in rows.all_text_contents()]
    assert told == [
        "Refuse itAn error says how long it is.",
        "Cut its beginningkeeps 980 of 1,512",
        "Cut its middlekeeps 980 of 1,512",
        "Cut its endkeeps 980 of 1,512; your question goes too",
    ]
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert").filter(has_text="maximum context length is 1000")).to_be_visible()
    expect(page.get_by_text("400 context_length_exceeded")).to_be_visible()
    assert sent(upstream) == []
    page.get_by_role("radio", name="Cut its middle").check()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#text")).to_have_text("one two")
    assert [len(body["prompt"]) for body in sent(upstream)] == [980]
    lines = receipt(page)
    assert lines["Prompt"] == "980 tokens"
    assert lines["Before it was cut"] == "1,512 tokens"
    assert lines["Cut away"] == "its middle"
    assert lines["Kept"] == "0 to 490 and 1,022 to 1,512"


def test_an_answer_appears_while_it_is_written_and_ends_with_a_receipt(open_page: Open, upstream: FakeUpstream) -> None:
    go_on = threading.Event()
    upstream.answers["/v1/completions"] = stream(delta("one"), when(go_on), delta(" two"), USAGE, DONE)
    page = open_page()
    page.get_by_label("Document", exact=True).fill("x" * 200)
    page.get_by_label("Question").fill("what?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#text")).to_have_text("one")
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "true")
    go_on.set()
    expect(page.locator("#text")).to_have_text("one two")
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_role("status").filter(has_text="Answered: 2 tokens.")).to_have_count(1)
    assert sent(upstream)[0]["prompt"] == "x" * 200 + "\nwhat?"
    lines = receipt(page)
    assert (lines["Prompt"], lines["Answer"], lines["Zone"]) == ("207 tokens", "2 tokens", "validated")
    assert lines["Times its training"] == "2.1\N{MULTIPLICATION SIGN}"
    assert {"First token", "Speed", "Total", "Request"} <= set(lines)
    page.get_by_text("Headers as they came").click()
    expect(page.locator("#headers")).to_contain_text("x-wave-extrapolation-factor: 2.070")


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stopping_frees_the_upstream_and_keeps_what_was_written(
    open_page: Open, upstream: FakeUpstream, how: str
) -> None:
    upstream.answers["/v1/completions"] = stream(delta("one"), upstream.wait_for_abort)
    page = open_page()
    page.get_by_label("Question").fill("what?")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#text")).to_have_text("one")
    stop = page.get_by_role("button", name="Stop")
    if how == "button":
        stop.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Ask")).to_be_focused()
    else:
        page.keyboard.press("Escape")
    expect(stop).to_be_hidden()
    assert upstream.aborted.wait(2)
    expect(page.locator("#text")).to_have_text("one")
    assert receipt(page)["Answer"] == "about 1 token, stopped"
    upstream.answers["/v1/completions"] = stream(delta("again"), DONE)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#text")).to_have_text("again")


@pytest.mark.parametrize("end", [stream(delta("one"), end=False), stream(delta("one"))])
def test_an_upstream_that_dies_mid_answer_leaves_its_words_and_an_error(
    open_page: Open, upstream: FakeUpstream, end: Callable
) -> None:
    upstream.answers["/v1/completions"] = end
    page = open_page()
    page.get_by_label("Question").fill("what?")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("upstream_died", exact=True)).to_be_visible()
    expect(page.locator("#text")).to_have_text("one")


def test_a_gateway_that_goes_away_is_said(browser: Browser, upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, model=MODEL)) as one:
        page = browser.new_context().new_page()
        page.goto(one.url)
        page.get_by_label("Question").fill("what?")
        expect(headline(page)).to_have_text("6 tokens")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert").filter(has_text="The gateway does not answer.")).to_be_visible()
    page.context.close()


def test_an_engine_that_is_not_ready_yet_is_waited_for(
    open_page: Open, gateway: Running, upstream: FakeUpstream
) -> None:
    healthy = upstream.answers["/health"]
    upstream.answers["/health"] = reply_json({}, "503 Service Unavailable")
    gateway.wait(503)
    page = open_page()
    page.get_by_label("Question").fill("what?")
    expect(headline(page)).to_have_text("Not counted")
    upstream.answers["/health"] = healthy
    expect(headline(page)).to_have_text("6 tokens", timeout=15_000)


def test_a_key_is_asked_for_and_stays_in_its_tab(open_page: Open, upstream: FakeUpstream, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n{entry_for(KEY, 'alice', {})}\n")
    with running(settings_for(upstream, model=MODEL, auth={"keys_file": str(keys)}, page=True)) as one:
        page = open_page(one.url)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        field.fill("\u2022" * 8)  # what a password field shows
        page.keyboard.press("Enter")
        expect(page.get_by_text("This is no key")).to_be_visible()
        field.fill("")
        page.keyboard.type("sk-wave-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("does not know this key")).to_be_visible()
        field.fill(KEY)
        page.keyboard.press("Enter")
        expect(field).to_be_hidden()
        page.get_by_label("Question").fill("what?")
        expect(headline(page)).to_have_text("6 tokens")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#text")).to_have_text("one two")
        for shown in ("#curl", "#python"):
            expect(page.locator(shown)).to_contain_text("WAVE_API_KEY")
        assert KEY not in page.content()
        page.reload()
        expect(page.locator("#legend li")).to_have_count(4)
        other = page.context.new_page()
        other.goto(one.url)
        expect(other.get_by_label("API key")).to_be_focused()
        page.get_by_text("Key set").click()
        page.get_by_role("button", name="Forget").click()
        page.reload()
        expect(page.get_by_label("API key")).to_be_focused()


def test_a_megabyte_is_held_beside_the_field_and_sent_whole(open_page: Open, upstream: FakeUpstream) -> None:
    text = "".join(f"line {number}\n" for number in range(100_000))
    page = open_page()
    page.get_by_label("Document", exact=True).fill("before ")
    paste(page, text)
    expect(page.get_by_text("A pasted text")).to_be_visible()
    expect(page.get_by_role("button", name="Remove")).to_be_focused()
    expect(page.locator("#size")).to_have_text(f"{len(text) + 7:,} characters")
    expect(page.locator("#held-excerpt")).to_contain_text("before line 0")
    expect(page.locator("#held-excerpt")).to_contain_text("line 99999")
    expect(headline(page)).to_have_text(f"{len(text) + 8:,} tokens", timeout=20_000)
    expect(page.get_by_text("too long even to be cut")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_label("Document", exact=True)).to_be_focused()
    expect(headline(page)).to_have_text("How long is your document?")


def test_files_are_taken_and_what_is_no_text_is_refused(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    folder = {"items": [], "files": [str(tmp_path)], "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": folder})
    expect(page.get_by_text(f"{tmp_path.name} cannot be read")).to_be_visible()
    chooser = page.locator("#file")
    chooser.set_input_files({"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7\n\x00\xff\xfe"})
    expect(page.get_by_text("a.pdf is not plain text")).to_be_visible()
    chooser.set_input_files({"name": "b.txt", "mimeType": "text/plain", "buffer": b"hello"})
    expect(headline(page)).to_have_text("6 tokens")
    expect(page.get_by_text("a.pdf is not plain text")).to_be_hidden()
    dropped = page.evaluate_handle(
        """() => {
            const held = new DataTransfer();
            held.items.add(new File(["x".repeat(70000)], "c.txt"));
            return held;
        }"""
    )
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    expect(page.get_by_text("c.txt")).to_be_visible()
    expect(headline(page)).to_have_text("70,001 tokens")
    page.get_by_role("button", name="Remove").click()
    document = page.get_by_label("Document", exact=True)
    document.fill("a document")
    words = page.evaluate_handle(
        """() => {
            const held = new DataTransfer();
            held.setData("text/plain", "words");
            return held;
        }"""
    )
    page.dispatch_event("#question", "drop", {"dataTransfer": words})  # the browser's own affair: a word is moved there
    expect(document).to_have_value("a document")
    page.dispatch_event("body", "drop", {"dataTransfer": words})
    expect(document).to_have_value("words")


def test_the_example_asks_for_a_line_of_a_long_text_far_past_the_training_length(
    open_page: Open, upstream: FakeUpstream
) -> None:
    page = open_page()
    expect(page.locator("#legend li")).to_have_count(4)
    page.get_by_role("button", name="Try an example").click()
    page.get_by_label("At most").fill("10")
    expect(page.locator("#place")).to_contain_text("the cap of 1,000")  # tokens here are bytes
    page.get_by_role("radio", name="Cut its beginning").check()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#text")).to_have_text("one two")
    prompt = "".join(map(chr, sent(upstream)[0]["prompt"][1:]))
    assert re.search(r"\n\nQuestion: What is the code of [a-z]+-[a-z]+\?\nAnswer:$", prompt)


def test_a_model_with_a_chat_template_is_asked_in_a_chat(open_page: Open, upstream: FakeUpstream) -> None:
    upstream.answers["/v1/chat/completions/render"] = reply_json({"token_ids": [1] * 42})
    said = b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n'
    upstream.answers["/v1/chat/completions"] = stream(said % b"Good", said % b" day", DONE)
    page = open_page()
    expect(page.get_by_role("combobox", name="As")).to_be_visible()
    page.get_by_label("Document", exact=True).fill("A letter.")
    page.get_by_label("Question").fill("Who writes?")
    expect(headline(page)).to_have_text("42 tokens")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#text")).to_have_text("Good day")
    assert sent(upstream)[0]["messages"] == [{"role": "user", "content": "A letter.\n\nWho writes?"}]
    page.get_by_role("combobox", name="As").select_option("a completion")
    expect(headline(page)).to_have_text("22 tokens")


QUOTES = """it's "quoted" \\ $HOME `date` %s é 漢 \t"""


@pytest.mark.parametrize(
    ("chat", "question"), [(False, QUOTES), (False, QUOTES + "x" * 4000), (True, QUOTES), (True, QUOTES + "x" * 4000)]
)
@pytest.mark.parametrize("language", ["curl", "Python"])
def test_the_code_that_is_shown_sends_the_same_request(
    open_page: Open, upstream: FakeUpstream, tmp_path: Path, chat: bool, question: str, language: str
) -> None:
    if chat:
        upstream.answers["/v1/chat/completions/render"] = reply_json({"token_ids": [1] * 42})
        upstream.answers["/v1/chat/completions"] = stream(DONE)
    page = open_page()
    (expect(page.get_by_role("combobox", name="As")).to_be_visible if chat else lambda: None)()
    expect(page.locator("#legend li")).to_have_count(4)
    page.get_by_label("Question").fill(question)
    page.get_by_label("At most").fill("7")
    page.get_by_label("Temperature").fill("0.5")
    expect(headline(page)).to_contain_text("tokens")
    if not chat and len(question) > 1000:
        page.get_by_role("radio", name="Cut its end").check()
    page.get_by_role("button", name="Ask").click()
    page.get_by_text(f"The same with {language}").click()
    if chat:
        page.evaluate("delete Navigator.prototype.clipboard")  # as where the page came over http from another machine
    else:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("details[open]").get_by_role("button", name="Copy").click()
    expect(page.locator("details[open]").get_by_role("button", name="Copied")).to_be_visible()
    page.get_by_label("Document", exact=True).focus()
    page.keyboard.press("Control+V")
    code = page.get_by_label("Document", exact=True).input_value()
    assert code.strip() == page.locator(f"#{language.lower()}").text_content().strip()
    save = page.locator("details[open]").get_by_role("button", name="Save request.json")
    if save.is_visible():
        with page.expect_download() as download:
            save.click()
        download.value.save_as(tmp_path / "request.json")
    command = ["bash", "-c", code] if language == "curl" else [sys.executable, "-c", code]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    clicked, copied = sent(upstream)
    assert copied == clicked  # cut alike, where the question is over the cap


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_without_scrolling_sideways(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    page.get_by_label("Document", exact=True).fill("x" * 1500)
    page.get_by_label("Question").fill("y" * 300)
    expect(page.get_by_role("radio", name="Cut its middle")).to_be_visible()
    page.get_by_role("radio", name="Cut its middle").check()
    page.get_by_role("button", name="Ask").click()
    receipt(page)
    for name in ("Headers as they came", "The same with curl", "The same with Python"):
        page.get_by_text(name).click()
    page.locator("#key summary").click()
    for width in (320, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 128) == (scheme == "dark")


def test_everything_can_be_reached_and_is_named_for_those_who_do_not_see_it(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Question").fill("what?")
    page.keyboard.press("Control+Enter")
    receipt(page)
    reached = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    wanted = {"key-summary", "document", "file", "example", "question", "most", "temperature", "send", "answer"}
    assert wanted | {"Headers as they came", "The same with curl", "The same with Python"} <= set(reached)
    for control in page.locator("input, select, textarea, button, [role=region], [role=img]").all():
        if control.is_visible():
            assert re.search(r'"\S', control.aria_snapshot()), control.evaluate("one => one.outerHTML")
