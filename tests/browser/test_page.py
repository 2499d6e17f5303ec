"""The page of `needle serve` in a browser: the real server, the shipped reader, the shipped corpus."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from test_report_page import CONTRASTS

from needle.components.store import SQLiteDocumentStore
from needle.data import SHIPPED_CORPUS
from needle.pipelines import QA
from needle.pipelines.server.auth import Scope, TokenFile
from needle.pipelines.server.page import PAGE, page_router

NEEDLE = Path(sys.executable).with_name("needle.exe" if os.name == "nt" else "needle")
pytestmark = pytest.mark.skipif(not NEEDLE.exists(), reason="the needle command is not installed beside this Python")

MOON = "When did people first land on the Moon?"
BRAZIL = "How many times have Brazil's men become world champions?"  # said in three files, in one of them twice
TICKET = "How much does a ticket to the Eiffel Tower cost?"  # said nowhere
FOUNDED = "When was Zanzibarville founded?"
HOSTILE = "<script>hacked = 1</script><img src=/x onerror='hacked = 1'>"
HOSTILE_NAME = "<img src=x onerror=hacked=1>.txt"
T = TypeVar("T")


class Server:
    """A `needle serve` of a store, until the with block ends."""

    def __init__(self, store: Path, *options: str):
        self.store = store
        command = [NEEDLE, "serve", "--store", store, "--port", "0", *options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"listens on (http://\S+)", line):
                self.url = f"{found[1]}/"
                break
        else:
            raise AssertionError(f"needle serve ended with {self._process.wait()}")
        threading.Thread(target=self._process.stderr.read, daemon=True).start()  # or its pipe would be full one day

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()  # how it stops when it is told to is not the page's
        self._process.wait()


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of the shipped corpus. (browser: without one, no server need start.)"""
    store = tmp_path_factory.mktemp("page") / "store"
    QA.open(store).index([SHIPPED_CORPUS / "documents"])
    with Server(store) as started:
        yield started


@pytest.fixture
def page(browser, server):
    """The page on a desktop; whatever a test does there, the console stays silent and no other host is asked."""
    browser.look()
    browser.get("about:blank")
    browser.messages(), browser.requests()
    browser.get(server.url)
    eventually(lambda: "(" in find(browser, "#to-documents").text)  # has learnt how many documents there are
    yield browser
    assert browser.execute_script("return typeof hacked") == "undefined"
    assert browser.messages() == []
    assert {url for url in browser.requests() if not url.startswith(server.url)} <= {"about:blank"}


def eventually(check: Callable[[], T], seconds: float = 15) -> T:
    """What a check gives as soon as that is true; an element that is not there yet is not true."""
    end = time.monotonic() + seconds
    while True:
        problem = None
        try:
            if value := check():
                return value
        except WebDriverException as error:
            problem = error
        assert time.monotonic() < end, problem or "never came true"
        time.sleep(0.02)


def find(browser, css: str):
    return browser.find_element(By.CSS_SELECTOR, css)


def texts(browser, css: str) -> list[str]:
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, css) if found.is_displayed()]


def ask(browser, question: str):
    """By the keyboard alone; the best card, or that of "no answer"."""
    field = find(browser, "#question")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(question, Keys.ENTER)
    eventually(lambda: question in browser.title and find(browser, "#status").text.startswith("Answered"))
    return find(browser, ".card.best")


def spoken(browser) -> str:
    """What a screen reader is told."""
    return find(browser, "#problem [role=status]").get_property("textContent")


def upload(browser, *files: Path) -> None:
    find(browser, "#files").send_keys("\n".join(map(str, files)))


def listed(browser) -> None:
    """Wait until the documents are listed."""
    eventually(lambda: find(browser, "#list").get_attribute("aria-busy") == "false" and find(browser, "#list li"))


def in_view(browser, css: str) -> bool:
    return browser.execute_script(
        "const [box, pane] = [arguments[0], arguments[0].closest('.scroll')].map((one) => one.getBoundingClientRect());"
        "return box.top >= pane.top && box.bottom <= pane.bottom",
        find(browser, css),
    )


def test_a_question_is_asked_by_keyboard_alone_and_its_answer_marked_in_its_sentence(page, server):
    told = server.call("ask", {"query": MOON})["answers"][0]
    assert page.switch_to.active_element == find(page, "#question")
    page.switch_to.active_element.send_keys(MOON, Keys.ENTER)
    card = eventually(lambda: find(page, ".card.best"))
    assert card.find_element(By.TAG_NAME, "h2").text == told["answer"] == "July 20, 1969"
    assert card.find_element(By.TAG_NAME, "blockquote").text == told["context"]
    assert card.find_element(By.TAG_NAME, "mark").text == told["answer"]
    assert card.find_element(By.CLASS_NAME, "source").text == "moon.md"
    probability = card.find_element(By.TAG_NAME, "meter")
    assert float(probability.get_property("value")) == pytest.approx(told["score"])
    assert card.find_element(By.CLASS_NAME, "sure").text == f"{round(100 * told['score'])}\u202f%"
    assert f"The best answer: July 20, 1969, {round(100 * told['score'])}\u202f%." in spoken(page)
    card.find_element(By.CSS_SELECTOR, ".whole summary").send_keys(Keys.ENTER)
    assert card.find_element(By.CSS_SELECTOR, ".whole p").text == told["passage"].strip()
    assert card.find_element(By.CSS_SELECTOR, ".whole mark").text == told["answer"]


def test_unlikely_answers_are_folded_away(page, server):
    told = server.call("ask", {"query": MOON})["answers"]
    ask(page, MOON)
    assert texts(page, ".card h2") == [answer["answer"] for answer in told if answer["score"] >= 0.05]
    find(page, "#answers > details > summary").click()
    assert texts(page, ".card h2") == [answer["answer"] for answer in told]


def test_other_places_that_say_the_same_are_listed_and_open(page, server):
    places = server.call("ask", {"query": BRAZIL})["answers"][0]["places"]
    card = ask(page, BRAZIL)
    also = card.find_element(By.CLASS_NAME, "also")
    assert also.find_element(By.TAG_NAME, "summary").text == f"Also said in {len(places) - 1} other places"
    links = also.find_elements(By.TAG_NAME, "a")
    named = {"football-world-cup.txt", "olympic-games.md (1)", "olympic-games.md (2)"}
    assert {link.text for link in links} == named
    links[-1].click()
    mark = eventually(lambda: find(page, "#text mark"))
    document = server.call(f"documents/{places[-1]['document_id']}")
    assert mark.text == document["text"][places[-1]["start_char"] : places[-1]["end_char"]]


def test_the_source_opens_at_the_place_and_back_closes_it(page, server):
    place = server.call("ask", {"query": "How long was Columbia's voyage?"})["answers"][0]["places"][0]
    text = server.call(f"documents/{place['document_id']}")["text"]
    card = ask(page, "How long was Columbia's voyage?")
    link = card.find_element(By.CLASS_NAME, "source")
    link.send_keys(Keys.ENTER)
    mark = eventually(lambda: find(page, "#text mark"))
    assert mark.text == text[place["start_char"] : place["end_char"]]
    eventually(lambda: in_view(page, "#text mark"))
    assert find(page, "#text").get_property("textContent") == text
    before = "return [...arguments[0].parentNode.childNodes][0].textContent"
    assert page.execute_script(before, mark) == text[: place["start_char"]]
    assert find(page, "#viewer").accessible_name == find(page, "#viewer-name").text == Path(place["file_path"]).name
    assert page.switch_to.active_element == mark  # a screen reader reads on from here
    address = page.current_url
    page.back()
    eventually(lambda: not find(page, "#viewer").is_displayed())
    assert card.is_displayed()  # it was not asked anew
    page.get(address)  # as one to whom it was sent
    assert eventually(lambda: find(page, "#text mark").text) == text[place["start_char"] : place["end_char"]]
    eventually(lambda: find(page, ".card.best"))
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(lambda: not find(page, "#viewer").is_displayed())
    assert "doc=" not in page.current_url


def test_of_a_large_document_the_part_around_the_place_is_shown_and_more_on_demand(page, server):
    filler = "Nothing of note happened on this day 🦛. " * 2000
    text = f"{filler}The lighthouse of Quorrin was built by Ada Vexley in 1873.\n\n{filler}".strip()
    document = {"id": "large", "title": "Lighthouses", "content": text}
    server.call("documents", {"documents": [document]})
    card = ask(page, "Who built the lighthouse of Quorrin?")
    assert card.find_element(By.TAG_NAME, "h2").text == "Ada Vexley"
    card.find_element(By.CLASS_NAME, "source").click()
    eventually(lambda: find(page, "#text mark").text == "Ada Vexley")
    eventually(lambda: in_view(page, "#text mark"))
    assert find(page, "#viewer-name").text == "Lighthouses"
    for button in ("earlier", "later"):
        while find(page, f"#{button}").is_displayed():
            length = len(find(page, "#text").get_property("textContent"))
            page.execute_script("arguments[0].click()", find(page, f"#{button}"))
            eventually(lambda length=length: len(find(page, "#text").get_property("textContent")) > length)
    shown = find(page, "#text").get_property("textContent")
    assert shown == server.call("documents/large")["text"]
    assert shown.split() == text.split()


def test_no_answer_is_said_and_the_nearest_candidate_can_be_reached(page, server):
    told = server.call("ask", {"query": TICKET})
    card = ask(page, TICKET)
    assert texts(page, ".card h2") == ["The documents hold no answer"]
    assert card.find_element(By.CLASS_NAME, "sure").text == f"{round(100 * told['no_answer_score'])}\u202f%"
    assert "There is no answer." in spoken(page)
    summary = find(page, "#answers > details > summary")
    assert summary.text.startswith(f"The nearest candidate: “{told['answers'][0]['answer']}”")
    summary.click()
    assert texts(page, ".card h2")[1:] == [answer["answer"] for answer in told["answers"]]
    assert card.find_element(By.CLASS_NAME, "feedback").is_displayed()
    ask(page, "Zyxw?")  # for which nothing at all is found
    assert texts(page, ".card h2, summary") == ["The documents hold no answer"]


def test_feedback_is_kept(page, server):
    def kept() -> list[tuple[Any, ...]]:
        labels = SQLiteDocumentStore(server.store).labels()
        return [
            (one.query, one.verdict, one.answer, one.correction, one.correction_start_char is not None) for one in labels
        ]

    def press(card, verdict: str) -> None:
        card.find_element(By.CSS_SELECTOR, f"[value={verdict}]").send_keys(Keys.SPACE)
        eventually(lambda: card.find_element(By.CLASS_NAME, "thanks").text == "Thank you, that is kept.")

    card = ask(page, MOON)
    press(card, "right")
    assert card.find_element(By.CSS_SELECTOR, "[aria-pressed=true]").text == "Right"
    assert not card.find_element(By.TAG_NAME, "form").is_displayed()
    press(card, "wrong")
    eventually(lambda: card.find_element(By.CSS_SELECTOR, "[aria-pressed=true]").text == "Wrong")
    card.find_element(By.TAG_NAME, "input").send_keys("on July 20, 1969", Keys.ENTER)  # more of the same words
    eventually(lambda: not card.find_element(By.TAG_NAME, "form").is_displayed())
    press(ask(page, TICKET), "right")
    moon, ticket = (MOON, "July 20, 1969"), (TICKET, None)
    assert [(query, verdict.value, answer, correction, found) for query, verdict, answer, correction, found in kept()] == [
        (moon[0], "right", moon[1], None, False),
        (moon[0], "wrong", moon[1], None, False),
        (moon[0], "wrong span", moon[1], "on July 20, 1969", True),
        (ticket[0], "right", ticket[1], None, False),
    ]


def test_files_are_uploaded_found_and_deleted_and_what_is_hostile_in_them_stays_text(page, server, tmp_path):
    good, bad, other = tmp_path / HOSTILE_NAME, tmp_path / "broken.pdf", tmp_path / "tune.mp3"
    good.write_text(f"{HOSTILE} Zanzibarville 🦛 is a town. {HOSTILE} It was founded in 1422 {HOSTILE}.")
    bad.write_text("no pdf")
    other.write_bytes(bytes(range(256)))
    assert page.find_elements(By.PARTIAL_LINK_TEXT, HOSTILE_NAME) == []
    find(page, "#to-documents").send_keys(Keys.ENTER)
    listed(page)
    before = server.call("documents")["total"]
    assert find(page, "#library").accessible_name == f"Documents ({before:,})"
    upload(page, good, bad, other)
    eventually(lambda: find(page, "#news").text == "3 of 3 files done, 1 added.")
    said = dict(row.split("\n", 1) for row in texts(page, "#uploads li"))
    assert said[HOSTILE_NAME].startswith("Added, ")
    assert said["broken.pdf"].startswith("Not added: ")
    assert said["tune.mp3"].startswith("Not added: ")
    eventually(lambda: find(page, "#library-name").text == f"Documents ({before + 1:,})")
    find(page, "#find").send_keys("onerror")
    eventually(lambda: texts(page, "#list a") == [HOSTILE_NAME])

    card = ask(page, FOUNDED)
    assert card.find_element(By.TAG_NAME, "h2").text == "1422"
    assert HOSTILE in card.find_element(By.TAG_NAME, "blockquote").text
    assert card.find_element(By.TAG_NAME, "mark").text == "1422"  # after a 🦛, which JavaScript counts as two
    card.find_element(By.CLASS_NAME, "source").click()
    eventually(lambda: find(page, "#text mark").text == "1422")
    assert find(page, "#text").text.count(HOSTILE) == 3
    assert find(page, "#viewer-name").text == HOSTILE_NAME
    ask(page, HOSTILE)
    assert page.find_elements(By.CSS_SELECTOR, "img, main script, dialog script") == []
    page.save_screenshot(str(tmp_path / "hostile.png"))

    find(page, "#to-documents").click()
    delete = f"#list [aria-label='Delete {HOSTILE_NAME}']"
    listed(page)
    find(page, delete).click()
    assert find(page, "#confirm").accessible_name == f"Delete {HOSTILE_NAME}?"
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(lambda: not find(page, "#confirm").is_displayed())
    assert server.call("documents?search=onerror")["total"] == 1
    find(page, delete).click()
    find(page, "#confirm [value=delete]").click()
    eventually(lambda: server.call("documents?search=onerror")["total"] == 0)
    eventually(lambda: texts(page, "#list a") == [])
    assert page.switch_to.active_element == find(page, "#library-name")


def test_files_can_be_dropped_anywhere(page, server):
    page.execute_script(
        "const data = new DataTransfer(); data.items.add(new File(['The moat of Brandle holds 37 crocodiles.'], 'moat.md'));"
        "for (const kind of ['dragover', 'drop'])"
        "  document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));"
    )
    eventually(lambda: texts(page, "#uploads li") == ["moat.md\nAdded, 1 passage"])
    assert ask(page, "How many crocodiles does the moat of Brandle hold?").find_element(By.TAG_NAME, "h2").text == "37"


def test_the_address_holds_the_question(page, server):
    ask(page, MOON)
    ask(page, BRAZIL)
    shared = page.current_url
    page.back()
    eventually(lambda: texts(page, ".best h2") == ["July 20, 1969"])
    assert find(page, "#question").get_property("value") == MOON
    page.back()
    eventually(lambda: find(page, "#start").is_displayed())
    assert texts(page, ".card") == []
    page.get(shared)
    eventually(lambda: texts(page, ".best h2") == ["five"])
    assert page.title == f"{BRAZIL} – needle"


def test_the_policy_stops_what_would_get_past_that(page):
    page.execute_script(
        "const script = document.createElement('script'); script.text = 'window.hacked = 1'; document.body.append(script);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=http://localhost/x onerror=\"window.hacked = 1\">')"
    )
    refused = page.messages()
    assert any("script-src" in message for message in refused)
    assert any("http://localhost/x" in message for message in refused)


#: Roles of what can be worked, or is named to screen readers for another reason.
NAMED = {
    "button",
    "link",
    "textbox",
    "searchbox",
    "DisclosureTriangle",
    "meter",
    "progressbar",
    "dialog",
    "region",
    "navigation",
}


def test_every_control_has_a_name(page):
    for question in (MOON, TICKET):
        card = ask(page, question)
        page.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        card.find_element(By.CSS_SELECTOR, "[value=wrong]").click()
        eventually(lambda card=card: card.find_element(By.TAG_NAME, "form").is_displayed())
        assert nameless(page) == []
    find(page, ".source").click()
    eventually(lambda: find(page, "#text mark"))
    assert nameless(page) == []
    find(page, "#to-documents").click()
    listed(page)
    find(page, "#list button").click()
    assert find(page, "#confirm").accessible_name.startswith("Delete ")
    assert nameless(page) == []
    find(page, "#confirm [value=keep]").click()
    names = [found.accessible_name for found in page.find_elements(By.CSS_SELECTOR, "#list button")]
    assert len(set(names)) == len(names)  # "Delete amazon.txt", not "Delete"
    assert page.find_elements(By.CSS_SELECTOR, "h1")
    assert find(page, "html").get_attribute("lang") == "en"


def nameless(page) -> list[dict[str, Any]]:
    """What the browser gives screen readers to work or to find, but without a name; nothing of what is behind a dialog."""
    tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    given = [node for node in tree if not node["ignored"] and node["role"]["value"] in NAMED]
    assert len(given) > 2
    return [node for node in given if not node["name"]["value"].strip()]


def test_the_focus_goes_through_all_that_can_be_worked_and_is_seen(page):
    ask(page, TICKET)
    find(page, "#to-documents").send_keys(Keys.ENTER)
    listed(page)
    find(page, "[data-close]:not(#viewer *)").send_keys(Keys.ENTER)
    assert page.switch_to.active_element == find(page, "#to-documents")  # where it came from
    assert focused(page, 7) == ["Question", "Ask", "Right", "Wrong", "The nearest", "needle", "Documents"]
    page.switch_to.active_element.send_keys(Keys.ENTER)
    eventually(lambda: find(page, "#library").is_displayed())
    page.execute_script("document.querySelector('#library-name').focus()")
    assert focused(page, 3) == ["Close the", "Add files", "Find a"]
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(lambda: not find(page, "#library").is_displayed())
    find(page, "body").send_keys("/")
    assert page.switch_to.active_element == find(page, "#question")


#: Whether the focused element, or the label that stands for it, is outlined.
OUTLINED = """
const focused = document.activeElement;
return [focused, focused.closest('label')].some((one) => one && getComputedStyle(one).outlineStyle === 'solid');
"""


def focused(page, keys: int) -> list[str]:
    """The first words of what the focus comes to by so many tabs."""
    names = []
    while len(names) < keys:
        ActionChains(page).send_keys(Keys.TAB).perform()  # an element's own send_keys would choose a file
        element = page.switch_to.active_element
        if element.tag_name == "body":  # after the last one the browser's own controls would come
            continue
        assert page.execute_script(OUTLINED), element.get_attribute("outerHTML")
        names.append(" ".join(element.accessible_name.split(" (")[0].split()[:2]).rstrip(":"))
    return names


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_can_be_read_at_every_width_in_the_light_and_in_the_dark(page, server, width, scheme, tmp_path):
    def looked_at(state: str) -> None:
        page.save_screenshot(str(tmp_path / f"{state}-{width}-{scheme}.png"))
        assert page.execute_script("return document.scrollingElement.scrollWidth") <= width
        inner = (
            "return [...document.querySelectorAll('.pane[open] .scroll')].every((one) => one.scrollWidth <= one.clientWidth)"
        )
        assert page.execute_script(inner)
        for part in ("h1, h2, p, a, small, mark, summary", "button, .button, label", "textarea, input"):
            visible = f":is({part}):not([hidden], [hidden] *, template *, :disabled)"
            contrasts = page.execute_script(CONTRASTS, visible, "color")
            assert min(contrasts, default=21) >= 4.5, (state, part)

    page.look(width, scheme)
    looked_at("start")
    ask(page, BRAZIL)
    looked_at("answers")
    find(page, ".source").click()
    eventually(lambda: find(page, "#text mark"))
    looked_at("document")
    eventually(lambda: in_view(page, "#text mark"))
    find(page, "#viewer [data-close]").click()
    ask(page, TICKET)
    looked_at("no-answer")
    find(page, "#to-documents").click()
    listed(page)
    looked_at("documents")


@pytest.fixture(scope="module")
def guarded(browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[Scope, str]]]:
    """A server of an empty store for those with a token."""
    folder = tmp_path_factory.mktemp("guarded")
    tokens = {scope: TokenFile(folder / "tokens.json").add(scope, scope) for scope in Scope}
    with Server(folder / "store", "--tokens", str(folder / "tokens.json")) as started:
        yield started, tokens


def test_a_server_with_tokens_is_used_with_a_token(browser, guarded, tmp_path):
    server, tokens = guarded
    file = tmp_path / "moat.md"
    file.write_text("The moat of Brandle holds 37 crocodiles.")
    question = "How many crocodiles does the moat of Brandle hold?"

    def give(token: str) -> None:
        field = eventually(lambda: next(one for one in [find(browser, "#token")] if one.is_displayed()))
        field.clear()
        field.send_keys(token, Keys.ENTER)

    browser.look()
    browser.get(server.url)
    for unknown in ("needle_unknown", "ключ"):
        give(unknown)
        eventually(lambda: find(browser, "#auth-problem").text == "The server does not know this token.")
    assert find(browser, "#auth").accessible_name == "A token, please"
    give(tokens[Scope.READ])
    eventually(lambda: not find(browser, "#auth").is_displayed())
    eventually(lambda: find(browser, "#empty").is_displayed())  # "There are no documents yet"
    assert find(browser, "#to-token").text == "Read only"
    ask(browser, question)
    assert texts(browser, ".feedback") == []
    find(browser, "#to-documents").click()
    assert "need one with the scope “write”" in eventually(lambda: find(browser, "#library .readers").text)
    assert not find(browser, ".drop").is_displayed()

    find(browser, "#to-token").click()
    give(tokens[Scope.WRITE])
    eventually(lambda: find(browser, ".drop").is_displayed())
    upload(browser, file)
    eventually(lambda: texts(browser, "#uploads li") == ["moat.md\nAdded, 1 passage"])
    card = ask(browser, question)
    assert card.find_element(By.TAG_NAME, "h2").text == "37"
    assert tokens[Scope.WRITE] not in browser.current_url
    stored = browser.execute_script("return [Object.values(sessionStorage), Object.keys(localStorage), document.cookie]")
    assert stored == [[tokens[Scope.WRITE]], [], ""]

    browser.execute_script("sessionStorage.setItem('token', 'needle_withdrawn')")
    browser.refresh()
    eventually(lambda: find(browser, "#auth").is_displayed())
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(lambda: "without a token" in find(browser, "#status").text)
    assert {message.split(" - ")[1][:23] for message in browser.messages()} == {"Failed to load resource"}
    browser.execute_script("sessionStorage.clear()")


class Scripted(http.server.ThreadingHTTPServer):
    """The page's files before a server that says what a test makes it say: troubles that a real one has rarely."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Says)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.to_ask: list[tuple[int, dict[str, str], Any]] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Says(http.server.BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in ("/", "/page.css", "/page.js"):
            name = path[1:] or "index.html"
            kind = {"html": "text/html", "css": "text/css", "js": "text/javascript"}[name.rpartition(".")[2]]
            self._say(200, {"Content-Type": kind}, (PAGE / name).read_bytes())
        elif path == "/info":
            limits = {"question_chars": 1000, "upload_bytes": 2**25}
            self._say(200, {}, {"auth": False, "scopes": ["read", "write"], "limits": limits, "file_types": [".txt"]})
        else:
            self._say(200, {}, {"total": 1, "documents": []})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(*self.server.to_ask.pop(0))

    def _say(self, status: int, headers: dict[str, str], body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def error(status: int, message: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, headers, {"error": {"code": "x", "message": message, "request_id": "x"}}


#: From a pipeline that tells as little as the contract allows.
BARE = {
    **{"answer": "yes", "score": 0.999, "retrieval_score": None, "context": None, "context_start_char": None},
    **{"context_end_char": None, "passage_id": None, "passage": None, "start_char": None, "end_char": None},
    **{"document_id": None, "file_path": None, "title": None, "page_number": None, "places": []},
}


def test_troubles_are_told_as_what_they_are(browser):
    with Scripted() as scripted:
        browser.look()
        browser.get(scripted.url)
        eventually(lambda: "(1)" in find(browser, "#to-documents").text)
        result = {"query": "?", "is_answered": True, "no_answer_score": None, "answers": [BARE]}
        busy, starting = error(429, "x", Retry_After="1"), error(503, "x", Retry_After="1")
        scripted.to_ask = [busy, starting, (200, {}, result)]
        find(browser, "#question").send_keys("Is it busy?", Keys.ENTER)
        eventually(lambda: "The server is busy; trying again in 1\u202fs" in spoken(browser))
        eventually(lambda: "The server is not ready; trying again in 1\u202fs" in spoken(browser))
        eventually(lambda: texts(browser, ".best h2, .best .sure") == ["yes", ">\u202f99\u202f%"])
        assert find(browser, ".source").text == "A document without a name"
        assert texts(browser, ".feedback, .whole, .also") == []

        scripted.to_ask = [error(504, f"It took too long. {HOSTILE}"), (200, {}, result), (502, {}, b"<h1>Bad gateway</h1>")]
        find(browser, "#question").send_keys(" And slow?", Keys.ENTER)
        eventually(lambda: find(browser, "#status").text == f"It took too long. {HOSTILE}")
        assert texts(browser, ".card") == []
        find(browser, "#again").click()
        eventually(lambda: texts(browser, ".best h2") == ["yes"])
        assert not find(browser, "#again").is_displayed()
        find(browser, "#ask button").click()
        eventually(lambda: find(browser, "#status").text == "The server failed (502).")

        find(browser, "#question").send_keys("🦛" * 1000, Keys.ENTER)
        too_long = "The question is too long: 1,021 characters of 1,000."
        eventually(lambda: find(browser, "#status").text == too_long)
        assert find(browser, "#question").get_attribute("aria-invalid") == "true"
        scripted.shutdown()
    find(browser, "#question").clear()
    find(browser, "#question").send_keys("Is anybody there?", Keys.ENTER)
    eventually(lambda: find(browser, "#status").text.startswith("The server can’t be reached."))
    assert find(browser, "#again").is_displayed()
    assert browser.execute_script("return typeof hacked") == "undefined"
    browser.messages()


def test_the_page_is_of_no_other_files_than_the_server_gives():
    given = {route.path for route in page_router().routes}  # type: ignore[attr-defined]
    assert {f"/{path.name}" for path in PAGE.iterdir()} == given - {"/", "/favicon.ico"} | {"/index.html"}
    sources = "".join(path.read_text(encoding="utf-8") for path in PAGE.iterdir())
    assert not re.search(
        r"\bstyle=|innerHTML|insertAdjacentHTML|document\.write|eval\(|https?://", sources.split("\n", 5)[5]
    )
