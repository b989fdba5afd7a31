"""The report in a real browser: it opens without a fault, without network, in light and dark, and prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdflow.experiment.filled import write_spec
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.results.report import write_report
from tests.browser import Browser
from tests.paths import BENCH
from tests.results.store import write_run

pytestmark = pytest.mark.slow
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    for method in ("baseline", "fitnet", "defeat"):
        files = write_spec(prepare(read_method(method), BENCH), folder / method)
        for seed in range(2):
            write_run(folder, method, 30 + len(method) + seed / 4, seed=seed, artifacts=files)
    return write_report(folder / "page", f"sqlite:///{folder / 'mlflow.db'}").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Browser:
    return Browser(tmp_path_factory.mktemp("profile"))


def brightness(file: Path) -> float:
    return float(np.asarray(Image.open(file).convert("L")).mean())


def test_page_opens_without_a_fault_and_without_network(browser, address):
    dom = browser.dom(address, OFFLINE)
    for words in ("Where the gains are", "Step cost against gain", "Loss shares per node", "defeat", "no distillation"):
        assert words in dom
    assert browser.log(address) == []


def test_page_is_drawn_in_light_and_in_dark(browser, address, tmp_path):
    light = browser.picture(address, tmp_path / "light.png", 1200, 1600, "--blink-settings=preferredColorScheme=1")
    dark = browser.picture(address, tmp_path / "dark.png", 1200, 1600, "--blink-settings=preferredColorScheme=0")
    assert brightness(light) > 200
    assert brightness(dark) < 60
    colours = {tuple(c) for c in np.asarray(Image.open(light).convert("RGB")).reshape(-1, 3)[::7]}
    assert (0x17, 0x63, 0xC0) in colours, "dots of measured gains"


def test_page_fits_a_narrow_window(browser, address, tmp_path):
    probe = tmp_path / "probe.html"
    frame = f'<iframe src="{address}" width="360" height="800"></iframe>'
    probe.write_text(f"<!doctype html><body style='margin:0'>{frame}<script>onload = () => {{ try {{ const d = "
                     "frames[0].document.documentElement; document.title = 'wide ' + (d.scrollWidth - d.clientWidth) } "
                     "catch (e) { document.title = String(e) } }</script>")
    dom = browser.dom(probe.as_uri(), "--allow-file-access-from-files")
    assert "<title>wide 0</title>" in dom


def test_a_link_to_a_run_unfolds_it(browser, address):
    dom = browser.dom(address)
    key = dom.partition('href="#run-')[2].partition('"')[0]
    assert '<details class="card" open' not in dom
    opened = browser.dom(f"{address}#run-{key}")
    assert opened.count('<details class="card" open') == 1
    assert f'id="run-{key}"' in opened.partition('<details class="card" open')[2].partition("</details>")[0]


def test_page_prints_with_everything_unfolded(browser, address, tmp_path):
    file = browser.pdf(address, tmp_path / "page.pdf")
    assert file.read_bytes().startswith(b"%PDF")
    assert file.read_bytes().count(b"/Type /Page\n") + file.read_bytes().count(b"/Type /Page/") > 8
