"""What the garbage collector looks at, in a process of its own: it has one collector for all."""

from __future__ import annotations

import subprocess
import sys


def test_collection_looks_at_what_the_start_brought_once_and_at_what_came_later_always() -> None:
    script = (
        "import gc, trio\n"
        "from trio.testing import MockClock, wait_all_tasks_blocked\n"
        "from stigmerd.daemon.garbage import GROWTH, set_survivors_aside\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        nursery.start_soon(set_survivors_aside)\n"
        "        await wait_all_tasks_blocked()\n"
        "        kept = [[number] for number in range(100_000)]\n"
        "        gc.collect()\n"
        "        print(len(gc.get_objects()) < 50_000)\n"
        "        await trio.sleep(GROWTH + 1)\n"
        "        kept += [[number] for number in range(100_000)]\n"
        "        gc.collect()\n"
        "        print(len(gc.get_objects()) > 100_000)\n"
        "trio.run(main, clock=MockClock(autojump_threshold=0))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["True", "True"]
