"""What works in a notebook: functions of the notebook itself, lambdas, closures, live events, and runs by their id.

The cells are marked with ``# %%``, so that editors can run them one by one.
"""

from __future__ import annotations

# %% A function that stands right here runs on the workers; nothing has to be installed or started first.
import math
import time
from typing import Any

from egregore_dist import Context, Sequence, node, parallel

SCALE = 1000  # travels with the functions that use it


@node
def is_prime(number: int) -> bool:
    """Whether ``number`` is one, by trial."""
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


numbers = list(range(SCALE, SCALE + 30))
answers = is_prime.map()(numbers)
print("primes:", [number for number, prime in zip(numbers, answers, strict=True) if prime])

# %% Without the cluster, a node is the plain function.
print("here:", is_prime(97))

# %% Lambdas need a name; closures carry what they have closed over.
square = node("square")(lambda number: number * number)


def times(factor: int) -> Any:
    """A node made on the fly."""
    return node(f"times_{factor}")(lambda number: number * factor)


print("named:", parallel(square, *[times(factor) for factor in (2, 3)])(12))


# %% A parameter annotated `Context` is told where it runs.
@node("where")
def where(number: int, context: Context) -> str:
    return (
        f"{context.node} of {context.workflow}, branch {context.branch} of {context.block}, attempt {context.attempt}"
    )


print("context:", Sequence(where.map(name="all"), name="tour")([10, 20])[1])


# %% Submit, go on working, and look at the run while it goes on.
@node("simulate")
def simulate(seed: int) -> int:
    time.sleep(0.1)
    return seed % 7


study = Sequence(simulate.map(name="simulations"), node("add")(lambda values: sum(values)), name="study")
run = study.submit(list(range(12)), id="study-1")
print("submitted:", run.id, "status", run.status)
done = 0
for event in run.events():
    if event.type == "branches.ended" and event.block != "0":
        done += len(event.branches)
        print(f"  {done:>2} of 12, the last by {(event.worker or '').partition('@')[0]}")
print("value:", run.result(), "status", run.status)

# %% The same id is the same run: a cell that is run again finds it, and computes nothing.
started = time.perf_counter()
again = study.submit(list(range(12)), id="study-1")
print(f"again: {again.result()}, after {1000 * (time.perf_counter() - started):.0f} ms")
