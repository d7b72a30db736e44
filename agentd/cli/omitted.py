"""What the libraries import that a daemon never uses: nearly half of a start's instructions, and 8 MiB.

While the daemon is imported, each such module stands there unexecuted, as a namespace package would, with what is asked
of it; whatever else a library asks of it executes it after all, and costs no more than that. The submodules of a
package are imported as ever.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec

_TLS_NAMES = (
    *("SSLContext", "MemoryBIO", "create_default_context", "CertificateError"),
    *("SSLError", "SSLWantReadError", "SSLSyscallError", "SSLZeroReturnError"),
)
_TLS_CODES = ("SSL_ERROR_WANT_READ", "SSL_ERROR_WANT_WRITE", "SSL_ERROR_SYSCALL")

_ASKED: dict[str, dict[str, object]] = {
    # The client, with the machine's CA certificates. Its version is for a header that we do not send.
    "aiohttp": {"__version__": ""},
    # All but ``attr.s``: validators, converters.
    "attr": {},
    # TLS, which the daemon does not speak.
    "ssl": {**dict.fromkeys(_TLS_NAMES, OSError), **dict.fromkeys(_TLS_CODES, 0)},
    # The proxies of a client.
    "urllib.request": {"getproxies": None, "proxy_bypass": None},
}


@contextmanager
def omitted() -> Iterator[None]:
    """Around the daemon's import. Who imports one of them later gets the module itself, but for aiohttp: its client
    would come with any of its modules."""
    made = [name for name, asked in _ASKED.items() if name not in sys.modules and _stand_in(name, asked)]
    if "attr" in made:
        vars(sys.modules["attr"])["s"] = import_module("attr._make").attrs
    if "backports.zstd" not in sys.modules:
        made.append("backports.zstd")  # aiohttp does without, and decompresses no body here
        sys.modules["backports.zstd"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in made:
            if name != "aiohttp":
                del sys.modules[name]


def _stand_in(name: str, asked: dict[str, object]) -> bool:
    """False where there is no such module."""
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        return False
    loader, module = spec.loader, module_from_spec(spec)

    def executed(attribute: str) -> object:
        if attribute.startswith("__") or (spec.submodule_search_locations and find_spec(f"{name}.{attribute}")):
            raise AttributeError(attribute)
        del vars(module)["__getattr__"]
        loader.exec_module(module)
        return getattr(module, attribute)

    vars(module).update(asked, __getattr__=executed)
    sys.modules[name] = module
    return True
