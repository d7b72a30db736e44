"""Names come through whatever their bytes are."""

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from agentd.http.codec import decode_json, decode_params, encode
from agentd.http.endpoint import Dialect, Endpoint
from agentd.http.router import Router


class Named(Struct):
    name: str


names = st.binary(min_size=1, max_size=40).map(lambda raw: raw.decode(errors="surrogateescape"))


async def nothing(_: object) -> None: ...


ROUTER = Router((Dialect("x", ("/v1",), (Endpoint("GET", "/{name}", "x", nothing, params=Named),)),))


@given(names)
def test_any_name_survives_json_both_ways(name: str) -> None:
    assert decode_json(encode(Named(name)), Named) == Named(name)


@given(names)
def test_any_name_survives_a_query(name: str) -> None:
    query = "name=" + quote(name, safe="", errors="surrogateescape")
    assert decode_params(Named, {}, query, frozenset()) == Named(name)


@given(names)
def test_any_name_survives_a_path(name: str) -> None:
    assert ROUTER.find("/v1/" + quote(name, safe="", errors="surrogateescape")).values == (name,)
