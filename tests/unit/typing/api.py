"""What an editor knows about the language: checked by mypy, never run."""

from __future__ import annotations

from typing import Literal, reveal_type

from egregore_dist.workflow import Sequence, decision, node, parallel


@node
def bare(x: int, *, by: float = 1.0) -> str:
    return str(x * by)


@node("named", retries=2, memory="2GB")
async def named(url: str) -> bytes:
    return url.encode()


@node(timeout=3, retries=1, retry_on=(OSError, KeyError), retry_delay=0.5)
def optioned(data: dict[str, int]) -> list[int]:
    return list(data.values())


@decision("route")
def route(x: int) -> Literal["bare", "named"]:
    return "bare"


@decision
def bare_route(x: int) -> str:
    return "bare"


negated = node("negated")(lambda x: not x)
block = parallel(bare, named, bare >> optioned, max_concurrent=2)
flow = Sequence(bare, block, optioned)

reveal_type(bare)
reveal_type(bare(1, by=2.0))
reveal_type(named)
pending = reveal_type(named("u"))
reveal_type(optioned.name)
reveal_type(route)
reveal_type(route.to(bare, named=named))
reveal_type(bare_route(1))
reveal_type(negated.options.memory)
reveal_type(bare >> block >> flow)
reveal_type(bare.alias("other"))
reveal_type(flow.alias("other"))
reveal_type(optioned.map(max_concurrent=8))
reveal_type(block)
reveal_type(flow.submit({"x": 1}, id="order-42"))
reveal_type(bare.submit())
reveal_type(bare.submit().why())
reveal_type(bare.submit().report())
reveal_type(bare.submit().logs(level="INFO"))

bare("text")  # type: ignore[arg-type]
bare(1, by="much")  # type: ignore[arg-type]
bare(1, 2.0)  # type: ignore[call-arg]
node("n", retries="2")(bare.fn)  # type: ignore[call-overload]
parallel(bare, on_error="ignore")  # type: ignore[arg-type]
Sequence(bare.fn)  # type: ignore[arg-type]
