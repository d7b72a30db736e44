"""Bases laid out otherwise than Debian's: the interpreter below /usr/local, as in the images of python.org."""

from pathlib import Path

import pytest

from tests.conftest import UNIT
from tests.deploy.engine import Engine
from tests.deploy.images import Built
from tests.deploy.test_image import HARDENED

# Builds of their own often tell each library where to look for others (ld.so(8), DT_RUNPATH).
LAYOUT = """\
FROM {base}
USER 0
RUN set -eu; mkdir -p /usr/local/bin /usr/local/lib; cp -L /usr/bin/python3 /usr/local/bin/; \\
    mv /usr/lib/python3.* /usr/local/lib/; rm -r /usr/bin/python3* /usr/lib/python3; \\
    for file in /usr/local/lib/python3.*/lib-dynload/*.so; do patchelf --set-rpath /nowhere "$file"; done
"""
BARE = """\
FROM {busybox}
COPY --from={tree} /opt/agentd /opt/agentd
ENTRYPOINT ["/opt/agentd/bin/agentd", "serve", "--"]
"""

pytestmark = pytest.mark.timeout(300 * UNIT)


@pytest.fixture(scope="module")
def base(engine: Engine, built: Built) -> str:
    place = engine.top / "layout"
    place.mkdir()
    (place / "Containerfile").write_text(LAYOUT.format(base=built.base))
    return engine.build(place, "layout")


def test_the_image_runs_by_the_interpreter_of_its_base(engine: Engine, context: Path, base: str) -> None:
    image = engine.build(context, "layout-agentd", f"--build-arg=BASE={base}")
    container = engine.start(image, *HARDENED)
    assert container.exec("head -n 1 /opt/agentd/bin/agentd")["stdout"].startswith("#!/usr/local/bin/python3 ")
    status, told = container.call("POST", "/v1/code/execute", {"code": "import sys; print(sys.executable)"})
    assert (status, "/usr/local/bin/python3" in str(told)) == (200, True)
    assert container.stop()[0] == 0


def test_the_tree_has_all_that_the_interpreter_needs(
    engine: Engine, context: Path, built: Built, base: str, tmp_path: Path
) -> None:
    tree = engine.build(context, "layout-tree", f"--build-arg=BASE={base}", "--target=relocatable")
    (tmp_path / "Containerfile").write_text(BARE.format(busybox=built.busybox, tree=tree))
    container = engine.start(engine.build(tmp_path, "layout-bare"), *HARDENED)
    assert container.exec("cat /proc/1/maps | busybox grep / | busybox grep -vc /opt/agentd")["stdout"] == "0\n"
    assert container.exec("id -u")["stdout"] == "1000\n"
    assert container.stop()[0] == 0
