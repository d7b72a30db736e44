"""`agentd.cli.omitted`: a start does not pay for what the daemon never uses, and nothing is lost by it."""

import subprocess
import sys

IMPORTED = "from agentd.cli.serve import imported_daemon; imported_daemon()\n"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return done.stdout


def test_the_daemon_is_imported_without_what_it_never_uses() -> None:
    found = set(python(f"{IMPORTED}import sys; print(*sys.modules)").split())
    assert {"agentd.http.web", "aiohttp.web_server", "uvloop"} <= found
    assert found & {"aiohttp.client", "aiohttp.web_app", "attr.validators", "http.client", "_ssl"} == set()


def test_who_imports_it_later_gets_the_module_itself() -> None:
    later = "import ssl, urllib.request, attr, aiohttp, backports.zstd\n"
    used = "ssl.create_default_context(), urllib.request.getproxies(), attr.validators, backports.zstd.compress(b'')\n"
    assert python(f"{IMPORTED}{later}{used}print(aiohttp.ClientSession.__name__)") == "ClientSession\n"


def test_a_library_that_asks_for_more_gets_it() -> None:
    asked = "import ssl, attr; print(ssl.TLSVersion.TLSv1_3.name, attr.define.__name__, ssl.SSLError.__name__)"
    assert python(f"from agentd.cli.omitted import omitted\nwith omitted(): {asked}") == "TLSv1_3 define SSLError\n"
