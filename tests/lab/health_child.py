"""A process that checks one service as the daemon does, its rights given up; it prints what it is told."""

import asyncio
import json
import signal
import sys

import msgspec

from hopline.config import Service
from hopline.daemon.health import Health
from hopline.kernel import capability


async def main(instance: str, service: Service) -> None:
    async def on_change(states):
        print(json.dumps([[*pair, state] for pair, state in states.items()]), flush=True)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    health = Health(instance, on_change)
    await health.start()
    kept = capability.give_up()
    print(json.dumps({"rights": kept.names, "remarks": kept.remarks}), flush=True)
    task = asyncio.create_task(health.run())
    health.configure({service.name: service})
    await asyncio.wait([task, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await health.stop()


asyncio.run(main(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Service)))
