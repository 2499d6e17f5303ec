"""The report in a browser: no script error, no request, its filters, its pages, the keyboard, phones, the dark."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from needle.data.squad import Question
from needle.pipelines.evaluate_answers import Evaluation, Judged, Outcome, Place
from needle.pipelines.report import write_report

HOSTILE = "<script>hacked = 1</script><img src=http://localhost/ onerror='hacked = 1'>"
WRONG = [outcome for outcome in Outcome if outcome is not Outcome.RIGHT]
#: Of each outcome that is wrong: 4 pages, the last one not full.
COUNTS = dict(zip(WRONG, (71, 40, 30, 20), strict=True))


def judge(number: int, outcome: Outcome) -> Judged:
    passage = (
        f"{HOSTILE} The river Nil{number} rises in Ruanda 🦛 and flows to the sea.\u2028Much later it ends. " + "pad " * 200
    )
    start, found = passage.index("Ruanda"), passage.index("the sea")
    answerable = outcome is not Outcome.SHOULD_HAVE_ABSTAINED
    abstained = outcome is Outcome.ABSTAINED_WRONGLY
    right = outcome is Outcome.RIGHT
    asked = f"Where does Nil{number} rise? {HOSTILE}"
    question = Question(f"q{number}", asked, passage, "Rivers", ("Ruanda",) * answerable, (start,) * answerable)
    best = "Ruanda" if right else "the sea"
    span = (start, start + 6) if right else (found, found + 7)
    return Judged(
        question=question,
        prediction="" if abstained else best,
        answers=(best,),
        score=number % 100 / 100,
        exact_match=float(right),
        f1=float(right),
        outcome=outcome,
        found_rank=None if outcome is Outcome.RETRIEVER_MISSED else 1,
        gold=Place(passage, start, start + 6, HOSTILE) if answerable else None,
        predicted=Place(passage, *span, HOSTILE),
        seconds=number / 1000,
    )


def evaluation(outcomes: list[Outcome], name: str = HOSTILE) -> Evaluation:
    judged = tuple(judge(number, outcome) for number, outcome in enumerate(outcomes))
    return Evaluation(name, {"f1": 50.0}, {"asked": len(judged)}, judged, {"model": HOSTILE})


OUTCOMES = [outcome for outcome, n in COUNTS.items() for _ in range(n)] + [Outcome.RIGHT] * 39


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    # Of the other one, the first ten questions are right, and so are all but the last five of those that are right here.
    other = [Outcome.RIGHT] * 10 + OUTCOMES[10:-5] + [Outcome.ABSTAINED_WRONGLY] * 5
    write_report(path, evaluation(OUTCOMES), evaluation(other, "other"))
    return path.as_uri()


@pytest.fixture
def opened(browser, page):
    """The page, on a desktop; whatever a test does there, the console stays silent and nothing is asked for."""
    browser.look()
    browser.messages(), browser.requests()
    browser.get(page)
    yield browser
    assert browser.messages() == []
    assert browser.requests() == {page}


def rows(browser) -> list[str]:
    """The question ids of the rows that can be seen."""
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, "#body .id") if found.is_displayed()]


def text(browser, id_: str) -> str:
    return browser.find_element(By.ID, id_).text


def choose(browser, cause: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f"input[name=cause][value='{cause}']").click()


def test_it_opens_with_all_wrong_answers_and_every_plot(opened):
    assert rows(opened) == [f"q{i}" for i in range(50)]
    assert text(opened, "status") == "1 to 50 of 161"
    assert len(opened.find_elements(By.CSS_SELECTOR, "figure svg[role=img] path")) > 100
    assert all(svg.size["height"] > 100 for svg in opened.find_elements(By.TAG_NAME, "svg"))


@pytest.mark.parametrize("outcome", WRONG)
def test_each_cause_filters(opened, outcome):
    choose(opened, outcome.value)
    wanted = [f"q{number}" for number, other in enumerate(OUTCOMES) if other is outcome]
    assert rows(opened) == wanted[:50]
    assert text(opened, "status") == f"1 to {min(50, COUNTS[outcome])} of {COUNTS[outcome]}"
    assert {chip.text for chip in opened.find_elements(By.CSS_SELECTOR, "#body th .outcome")} == {outcome.value}


def test_what_differs_from_the_compared_and_what_only_that_got_wrong(opened):
    opened.find_element(By.ID, "differs").click()
    assert rows(opened) == [f"q{i}" for i in range(10)]
    choose(opened, "fixed")
    assert rows(opened) == [f"q{i}" for i in range(195, 200)]
    choose(opened, Outcome.RETRIEVER_MISSED.value)
    assert rows(opened) == []
    assert text(opened, "status") == "No such answers."
    assert not opened.find_element(By.ID, "table").is_displayed()


def test_search(opened):
    box = opened.find_element(By.ID, "search")
    box.send_keys("NIL12 rises in ruanda")
    assert rows(opened) == ["q12"]
    box.clear()
    box.send_keys("nil9")
    assert rows(opened) == ["q9", *(f"q{i}" for i in range(90, 100))]
    choose(opened, Outcome.WRONG_SPAN.value)
    assert rows(opened) == ["q9"]
    box.send_keys(Keys.ENTER)  # is no sending of a form
    assert rows(opened) == ["q9"]


def test_pages(opened):
    following, previous = (opened.find_element(By.ID, id_) for id_ in ("next", "previous"))
    assert previous.get_attribute("aria-disabled") == "true"
    for _ in range(5):  # two more than there are
        following.click()
    assert rows(opened) == [f"q{i}" for i in range(150, 161)]
    assert (text(opened, "page"), text(opened, "status")) == ("Page 4 of 4", "151 to 161 of 161")
    assert following.get_attribute("aria-disabled") == "true"
    previous.click()
    assert text(opened, "page") == "Page 3 of 4"
    choose(opened, Outcome.ABSTAINED_WRONGLY.value)
    assert rows(opened)[0] == "q111"
    assert not opened.find_element(By.ID, "pager").is_displayed()


def test_spans_are_marked_where_they_are_and_documents_stay_text(opened):
    row = opened.find_element(By.CSS_SELECTOR, "#body tr")
    marks = [(mark.get_attribute("class"), mark.text) for mark in row.find_elements(By.TAG_NAME, "mark")]
    assert marks == [("gold", "Ruanda"), ("predicted", "the sea")]  # after a 🦛, which JavaScript counts as two
    assert HOSTILE in row.find_element(By.CLASS_NAME, "passage").text
    assert HOSTILE in row.find_element(By.CLASS_NAME, "question").text
    assert opened.find_elements(By.TAG_NAME, "img") == []
    assert opened.execute_script("return typeof hacked") == "undefined"
    assert opened.find_element(By.TAG_NAME, "h1").text == HOSTILE


def test_the_policy_stops_what_would_get_past_that(opened):
    opened.execute_script(
        "const script = document.createElement('script'); script.text = 'window.hacked = 1'; document.body.append(script);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=http://localhost/x onerror=\"window.hacked = 1\">')"
    )
    assert opened.execute_script("return typeof window.hacked") == "undefined"
    refused = opened.messages()
    assert any("script-src" in message for message in refused)
    assert any("http://localhost/x" in message for message in refused)


def focused(browser, keys: int) -> list[str]:
    """What the focus comes to by so many tabs: ids, or what else names an element; each is to be seen when it has it."""
    names = []
    for _ in range(keys):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        element = browser.switch_to.active_element
        assert element.is_displayed() or element.get_attribute("type") == "radio"
        names.append(element.get_attribute("id") or element.get_attribute("name") or element.tag_name)
    return names


def test_everything_can_be_reached_and_worked_by_keyboard(opened):
    assert focused(opened, 1) == ["a"]  # "Skip to the wrong answers"
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert focused(opened, 5) == ["cause", "differs", "search", "previous", "next"]
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert text(opened, "page") == "Page 2 of 4"
    opened.switch_to.active_element.send_keys(Keys.SPACE)
    assert text(opened, "page") == "Page 3 of 4"
    opened.find_element(By.CSS_SELECTOR, "input[name=cause]").send_keys(Keys.ARROW_RIGHT)
    assert rows(opened) == [f"q{i}" for i in range(50)]
    assert text(opened, "status") == "1 to 50 of 71"
    outline = "return getComputedStyle(document.querySelector('input[name=cause]:checked + span')).outlineStyle"
    assert opened.execute_script(outline) == "solid"


def test_the_parts_of_the_page_have_names_and_roles(opened):
    landmarks = [found.accessible_name for found in opened.find_elements(By.CSS_SELECTOR, "section")]
    assert landmarks == ["Summary", "Differences from other", "Plots", "Slowest questions", "Wrong answers"]
    opened.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    for control in opened.find_elements(By.CSS_SELECTOR, "input, button, svg, nav, [role=region]"):
        assert control.accessible_name, control.get_attribute("outerHTML")
    assert opened.find_element(By.CSS_SELECTOR, "fieldset").accessible_name == "Cause"


#: The contrasts of the elements of a selector, by one of their colours, with what is behind them (WCAG 2.2's formula).
CONTRASTS = """
const [selector, property] = arguments;
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function luminance(colour) {
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function ground(element) {
  const colour = getComputedStyle(element).backgroundColor;
  return colour === 'rgba(0, 0, 0, 0)' ? ground(element.parentElement) : colour;
}
return [...document.querySelectorAll(selector)].map((element) => {
  const [a, b] = [luminance(getComputedStyle(element)[property]), luminance(ground(element))].sort((x, y) => y - x);
  return (a + .05) / (b + .05);
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_it_can_be_read_at_every_width_in_the_light_and_in_the_dark(opened, width, scheme, tmp_path):
    opened.look(width, scheme)
    # WCAG 2.2 AA: 4.5 for text, 3 for what a plot shows by.
    for texts in ("mark", "small", "td", ".outcome", "legend", "figcaption", "fieldset span", "summary", "#next"):
        assert min(opened.execute_script(CONTRASTS, texts, "color")) >= 4.5, texts
    assert min(opened.execute_script(CONTRASTS, "svg text", "fill")) >= 4.5
    for paint in ("fill", "stroke"):
        painted = f"svg [{paint}^='var(--']:not([{paint}='var(--grid)'])"
        assert min(opened.execute_script(CONTRASTS, painted, paint)) >= 3, paint
    assert opened.execute_script("return document.scrollingElement.scrollWidth") <= width
    assert rows(opened) == [f"q{i}" for i in range(50)]
    choose(opened, Outcome.RETRIEVER_MISSED.value)
    assert len(rows(opened)) == 40
    mark, passage = (opened.find_element(By.CSS_SELECTOR, f"#body {name}").rect for name in ("mark", ".passage"))
    assert passage["x"] <= mark["x"] <= width - 20
    opened.save_screenshot(str(tmp_path / f"{width}-{scheme}.png"))


def test_without_its_script_the_numbers_and_plots_are_there(opened, page):
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(page)
        tree = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    assert ("rowheader", "exact_match answered as an annotator did, or rightly not answered") in seen
    assert sum(role in ("img", "image") for role, _ in seen) == 7
    assert any("shown by this page's script" in name for _, name in seen)
    assert not any(role in ("radio", "searchbox") for role, _ in seen)


def test_ten_thousand_wrong_answers_stay_usable(browser, tmp_path: Path):
    browser.look()
    path = tmp_path / "report.html"
    write_report(path, evaluation(list(islice(cycle(WRONG), 10_000))))
    assert path.stat().st_size < 20_000_000
    browser.get(path.as_uri())
    assert text(browser, "status") == "1 to 50 of 10,000"
    took = browser.execute_script(
        "const [start, box] = [performance.now(), document.getElementById('search')]; box.value = 'nil9999 rises';"
        "box.dispatchEvent(new Event('input', {bubbles: true}));"
        "document.body.offsetHeight; return performance.now() - start"  # the height: laid out as well
    )
    assert rows(browser) == ["q9999"]
    assert took < 2000  # milliseconds; the first search, on a busy machine
