"""Forks, exits and event loops with real nodes and the real model: the short form of `tests.chaos.lifecycle`."""

from __future__ import annotations

import pytest

from tests.chaos import lifecycle


@pytest.fixture(scope="module")
def made():
    with lifecycle.world() as world:
        yield world


@pytest.mark.parametrize("scene", lifecycle.FORKS)
def test_a_child_made_by_fork_works_or_says_at_once_that_it_cannot(made, scene):
    (line,) = lifecycle.forks(made, 2, {scene: lifecycle.FORKS[scene]})
    assert not line.bad, line


@pytest.mark.parametrize("scene", lifecycle.EXITS)
def test_a_program_ends_whatever_it_left_open(made, scene):
    how, seconds, said = lifecycle.ended(made, lifecycle.EXITS[scene])
    assert how == "ok", said
    assert seconds < 20.0, "it waited for what was open"


def test_the_connection_of_an_event_loop_ends_with_it(made):
    line = lifecycle.loops(made, 20)
    assert not line.bad, line


CLOSED_UNDER_HEDGES = """
found = collections.Counter()
def call(llm):
    try:
        llm.generate("case 1: 30 words", deadline=20.0)
        return "ok"
    except hybrid_llm.HybridLLMError:
        return "ok"
    except BaseException as error:
        return repr(error)
for round in range(10):
    llm = cloud("5ms")
    threads = [threading.Thread(target=lambda: found.update([call(llm)]), daemon=True) for _ in range(20)]
    for thread in threads: thread.start()
    time.sleep(0.005 * round)
    llm.close()
    for thread in threads: thread.join(15.0)
    found["hung"] += sum(thread.is_alive() for thread in threads)
assert found == {"ok": 200, "hung": 0}, found
last_line()
"""
CLOSED_FROM_ANOTHER_THREAD = """
def closes(stream):
    next(stream)
    thread = threading.Thread(target=drain, args=(stream,), daemon=True)
    thread.start()
    time.sleep(0.1)
    stream.close()
    thread.join(15.0)
    assert not thread.is_alive()
closes(cloud().stream(LONG, max_tokens=9000))
closes(cloud("50ms").stream(LONG, max_tokens=9000))
closes(hybrid_llm.stream("Count from 3 to 90.", max_tokens=200))
last_line()
"""
CLOSED_AFTER_A_LOOP = """
llm = cloud()
async def leave():
    stream = llm.astream(LONG, max_tokens=9000)
    await anext(stream)
    return stream
loop = asyncio.new_event_loop()
left = loop.run_until_complete(leave())
loop.close()
sync = llm.stream(LONG, max_tokens=9000)
next(sync)
llm.close()
try:
    list(sync)
except hybrid_llm.HybridLLMError:
    last_line()
"""


@pytest.mark.parametrize("text", [CLOSED_UNDER_HEDGES, CLOSED_FROM_ANOTHER_THREAD, CLOSED_AFTER_A_LOOP])
def test_whoever_waits_learns_of_the_end(made, text):
    how, _, said = lifecycle.ended(made, text, 300.0)
    assert how == "ok", said


OPEN_AT_THE_END = {
    "tasks are cancelled": (
        "async def one():\n"
        "    async for _ in llm.astream(LONG, max_tokens=9000): pass\n"
        "async def main():\n"
        "    tasks = [asyncio.create_task(one()) for _ in range(10)]\n"
        "    await asyncio.sleep(0.2)\n"
    ),
    "streams are open": (
        "async def main():\n"
        "    global streams\n"
        "    streams = [llm.astream(LONG, max_tokens=9000) for _ in range(10)]\n"
        "    for stream in streams: await anext(stream)\n"
    ),
    "streams are left": (
        "async def main():\n    for _ in range(10):\n        async for _ in llm.astream(LONG, max_tokens=9000): break\n"
    ),
}


@pytest.mark.parametrize("left", OPEN_AT_THE_END)
def test_an_event_loop_that_ends_with_calls_leaves_nothing_to_the_next_one(made, left):
    text = f"llm = cloud()\n{OPEN_AT_THE_END[left]}for _ in range(5): asyncio.run(main())\nlast_line()"
    how, _, said = lifecycle.ended(made, text)
    assert (how, said) == ("ok", "")


FEW_DESCRIPTORS = """
llm, loop = cloud(), asyncio.new_event_loop()
ask = lambda: llm.generate("case 1: 3 words", deadline=20.0)
aask = lambda: loop.run_until_complete(llm.agenerate("case 1: 3 words", deadline=20.0))
use_up(SPARE)
for call in (aask, ask, aask, ask):
    try:
        call()
    except hybrid_llm.HybridLLMError:
        pass
for each in held:
    os.close(each)
for call in (aask, ask):
    end = time.monotonic() + 30.0
    while True:
        try:
            call()
            break
        except hybrid_llm.HybridLLMError:
            assert time.monotonic() < end
            time.sleep(0.1)
last_line()
"""


@pytest.mark.parametrize("spare", range(1, 24, 2))
def test_an_app_with_few_descriptors_is_not_ended_and_answers_once_it_has_more(made, spare):
    how, _, said = lifecycle.ended(made, FEW_DESCRIPTORS.replace("SPARE", str(spare)))
    assert how == "ok", said
