"""Pages in a real browser: what a reader sees, with scripts and without.

    apt-get install chromium && pip install playwright==1.65.2
"""
import csv
import shutil

import pytest

from reports import __main__ as command
from reports import pages
from runlog.errors import exit_code
from tests.test_reports import evaluation, make_run

HOW = "apt-get install chromium && pip install playwright==1.65.2"
playwright = pytest.importorskip("playwright.sync_api", reason=f"no playwright: {HOW}")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no chromium: {HOW}")
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
         "--disable-background-networking --disable-component-update --disable-sync").split()
IMAGE = "<img src=x onerror=alert(1)>"
LONG = "CC(C)C(=O)c1c[nH]nc1C1CCN(S(=O)(=O)c2cccc(Cl)n2)CC1" * 3


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """A function that opens a page, as a reader with such a screen does, and waits until its charts
    are drawn. At the end no script has failed, and nothing was asked of any network."""
    contexts, troubles = [], []

    def open_page(file, width=1000, scripts=True, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800},
                                      java_script_enabled=scripts, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on("request", lambda request: troubles.append(request.url)
                if request.url != file.as_uri() and not request.url.startswith("blob:") else None)
        page.goto(file.as_uri())
        if scripts:
            page.wait_for_selector(f"body[data-drawn={scheme}]")
        return page
    yield open_page
    for context in contexts:
        context.close()
    assert not troubles


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The page of a run with 60 candidates; two are no text that one would like to see alive."""
    names = {7: IMAGE, 9: '=1+"2"', 11: LONG, 13: "two\nlines"}
    evaluations = [evaluation(i, names.get(i, f"word{i}"), (i * 37 % 60) / 60, step=i // 10,
                              proposal=2 * i, origin=["warm-start", "neighbor", "on-policy"][i % 3],
                              parents=[f"word{i - 1}"] if i > 1 else [], valid=i != 20)
                   for i in range(60)]
    part = {"n": 5, "score_mean": 0.3, "repeats": 1, "invalid": 0, "logprob": -1.0}
    steps = [{"step": i, "proposals": 10 * i, "entropy": 1 / i, "neighbor": part, "on-policy": part,
              "seconds": {"sampling": 1.0, "scoring": 0.5}} for i in range(1, 7)]
    word = "C" * 99
    written = {"step": 1, "proposal": 1, "origin": "on-policy", "prompt": "?", "completion": word,
               "cut": False, "read": [{"candidate": word, "score": 0.5, "valid": True,
                                       "repeat": False}]}
    return pages.write(make_run(tmp_path_factory.mktemp("browser") / "run", evaluations,
                                steps=steps, completions=[written]))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """The page of four runs of two methods."""
    folder = tmp_path_factory.mktemp("comparison")
    for method in ("migrate", "ns"):
        for seed in (1, 2):
            make_run(folder / f"{method}{seed}", [
                evaluation(i, f"word{i}", i * seed / 40, proposal=i) for i in range(11)],
                method=method, seed=seed)
    file = folder / "comparison.html"
    assert exit_code(command.main, [str(folder), "--html", str(file)]) == 0
    return file


def column(page, field: str) -> list[str]:
    """The cells of a column of the table that are shown."""
    names = page.locator("th").evaluate_all("heads => heads.map(head => head.dataset.field)")
    cells = page.locator(f".grid tbody td:nth-child({names.index(field) + 1})")
    return cells.all_text_contents()


def test_the_table_is_sorted_searched_and_turned_over(run, opened):
    """Catches: numbers that are sorted as text; an invalid candidate among the good ones; a page
    that shows all of 10,000 rows at once."""
    page = opened(run)
    best = [f"{i / 60:.4f}" for i in range(59, 39, -1) if i != 20]
    assert column(page, "score") == best
    page.get_by_role("button", name="score").click()
    assert column(page, "score")[0] == "0.0000" and "invalid" not in column(page, "score")
    page.get_by_title("On").click()
    page.get_by_title("On").click()
    assert column(page, "score")[-1] == "invalid" and len(column(page, "score")) == 20
    assert page.get_by_title("On").is_disabled()
    page.get_by_role("button", name="proposal").click()
    assert column(page, "proposal")[:3] == ["118", "116", "114"]
    page.get_by_role("searchbox").fill("WORD5")
    assert len(column(page, "candidate")) == 12     # word5, word50 .. word59, and word6 by parent
    page.get_by_role("searchbox").fill("nothing like this")
    assert column(page, "candidate") == []
    page.get_by_role("searchbox").fill(IMAGE)
    assert column(page, "candidate") == [IMAGE] and page.locator("img").count() == 0


def test_the_table_is_saved_as_csv(run, opened):
    """All rows, or those that were searched for. Catches: a separator or a quote in a candidate, a
    formula that a spreadsheet would run."""
    page = opened(run)

    def saved():
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as CSV").click()
        assert download.value.suggested_filename == "candidates.csv"
        with open(download.value.path(), newline="") as file:
            return list(csv.DictReader(file))
    rows = {row["candidate"]: row for row in saved()}
    assert len(rows) == 60 and rows["two\nlines"]["score"] == str(round(13 * 37 % 60 / 60, 6))
    assert rows["word20"]["score"] == "" and IMAGE in rows and LONG in rows
    assert "'=1+\"2\"" in rows
    page.get_by_role("searchbox").fill("word30")
    assert [row["candidate"] for row in saved()] == ["word30", "word31"]    # whose parent it is


def hover(page, x: float, y: float) -> None:
    """Puts the mouse on a point of the first chart, in the units of its axes."""
    figure = page.locator("[data-chart]").first
    figure.scroll_into_view_if_needed()
    place = figure.evaluate("""(figure, [x, y]) => {
        const view = figure.view, box = figure.querySelector("canvas").getBoundingClientRect();
        const [left, top] = view.origin().map(part => part + view.padding().left);
        return [box.left + left + view.scale("x")(x), box.top + top + view.scale("y")(y)];
    }""", [x, y])
    page.mouse.move(*place)


def test_every_dot_tells_what_it_is_as_text(run, opened):
    """Catches: a tooltip that shows a candidate as HTML, and one that lacks the score."""
    page = opened(run)
    first = 1 - sum(1 for i in range(60) if i // 10 == 0)       # the warm start is step 0
    hover(page, first + 7, (7 * 37 % 60) / 60)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for(timeout=5000)
    text = tooltip.inner_text()
    assert IMAGE in text and f"{7 * 37 % 60 / 60:.4f}" in text and "neighbours" in text
    assert page.locator("img").count() == 0


def test_a_chart_is_zoomed_with_ctrl_and_moved_and_the_wheel_alone_scrolls(run, opened):
    """Catches: a page that cannot be scrolled over a chart, a chart that cannot be zoomed."""
    page = opened(run)

    def domain():
        return page.locator("[data-chart]").first.evaluate("f => f.view.scale('x').domain()")
    hover(page, 10, 0.5)
    before = domain()
    page.mouse.wheel(0, -200)
    assert domain() == before
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    page.wait_for_function("before => document.querySelector('[data-chart]').view.scale('x')"
                           ".domain()[1] < before", arg=before[1])
    zoomed = domain()
    assert before[0] < zoomed[0] < zoomed[1] < before[1]


@pytest.mark.parametrize("width, scheme", [(400, "light"), (400, "dark"), (1000, "dark")])
def test_a_page_fits_a_phone_and_is_dark_where_the_browser_is(run, comparison, opened, width,
                                                              scheme):
    """Catches: a page that scrolls sideways; dark text on dark ground, in the page or in a
    chart."""
    for file in (run, comparison):
        page = opened(file, width, scheme=scheme)
        root = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert root[0] <= root[1]
        ground, ink = page.evaluate("[getComputedStyle(document.body).backgroundColor, "
                                    "getComputedStyle(document.body).color]")
        light, dark = ("rgb(255, 255, 255)", "rgb(29, 32, 36)"), ("rgb(21, 24, 28)",
                                                                  "rgb(233, 235, 238)")
        assert (ground, ink) == (dark if scheme == "dark" else light)
        drawn = page.locator("[data-chart]").first.evaluate("""figure => {
            const canvas = figure.querySelector("canvas"), found = {};
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            for (let i = 0; i < pixels.data.length; i += 4)
                found[Array.from(pixels.data.slice(i, i + 4)).join()] = true;
            return found; }""")
        texts = {"light": "93,101,112,255", "dark": "160,168,178,255"}      # of the axes
        assert [name for name, colour in texts.items() if colour in drawn] == [scheme]


def test_without_scripts_there_are_a_picture_and_the_ten_best(run, comparison, opened):
    """Catches: an empty page for a reader who blocks scripts; controls that do nothing."""
    page = opened(run, scripts=False)
    assert page.locator("[data-chart=search] svg").is_visible()
    assert column(page, "score") == [f"{i / 60:.4f}" for i in range(59, 49, -1)]
    assert page.locator("noscript p").first.is_visible()
    assert page.locator(".tools").count() == 0 and page.locator(".live:visible").count() == 0
    assert not page.locator("[data-chart=group]").is_visible()
    page = opened(comparison, scripts=False)
    assert page.locator("[data-chart] svg").first.is_visible()
    assert page.locator("tbody tr").count() == 2


def test_a_comparison_has_a_legend_and_a_table_that_can_be_sorted(comparison, opened):
    """Catches: a table whose intervals are lost, a curve whose tooltip names no method."""
    page = opened(comparison)
    assert page.locator("td:nth-child(4)").all_text_contents() == ["migrate", "ns"]
    for _ in range(2):
        page.get_by_role("button", name="method").click()
    assert page.locator("td:nth-child(4)").all_text_contents() == ["ns", "migrate"]
    hover(page, 5, 0.1875)          # the mean of both seeds after five proposals
    page.locator("#vg-tooltip-element.visible").wait_for(timeout=5000)
    text = page.locator("#vg-tooltip-element").inner_text()
    assert "0.188" in text and "0.125" in text and "0.250" in text


def test_ten_thousand_candidates_leave_a_page_that_answers(tmp_path, opened):
    """Catches: as many rows in the page as there are candidates."""
    evaluations = [evaluation(i, f"candidate number {i}", (i * 7919 % 10007) / 10007, step=1 + i)
                   for i in range(10_000)]
    page = opened(pages.write(make_run(tmp_path / "run", evaluations)))
    assert page.locator(".grid tbody tr").count() == 20
    page.get_by_role("searchbox").fill("number 9999")
    assert column(page, "candidate") == ["candidate number 9999"]
