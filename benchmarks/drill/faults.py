"""What goes wrong: parts are killed, paused and moved, by turns and at random."""

import asyncio
import random
import signal
import time

from benchmarks.drill.world import World


class Faults:
    """Two series at the same time: one of the engines, one of the gateways and the Redis."""

    def __init__(self, world: World, seed: int) -> None:
        self.done: list[tuple[float, str]] = []
        self._world = world
        self._draw = random.Random(seed)  # noqa: S311 - a reproducible series
        self._ending: list[asyncio.Task[None]] = []

    async def run(self, seconds: float) -> None:
        """Faults for a time; afterwards everything runs."""
        end = time.time() + seconds
        await asyncio.gather(
            self._series(end, self._kill_engine, self._pause_engine, self._move_engine, self._move_engine),
            self._series(
                end, self._kill_gateway, self._pause_gateway, self._pause_redis, self._kill_redis, self._reload
            ),
        )
        await asyncio.gather(*self._ending)

    async def _series(self, end: float, *faults) -> None:  # noqa: ANN002
        least, most = (10, 30) if self._world.real else (1, 5)  # seconds; a real engine takes a minute to start
        while time.time() < end:
            await asyncio.sleep(self._draw.uniform(least, most))
            await self._draw.choice(faults)()

    def _note(self, fault: str) -> None:
        self.done.append((time.time(), fault))

    async def _kill_engine(self) -> None:
        self._note("engine killed")
        engine = self._draw.choice(list(self._world.engines.values()))
        engine.kill()
        await asyncio.sleep(self._draw.uniform(0.2, 4))
        engine.start()

    async def _pause_engine(self) -> None:
        self._note("engine paused")
        engine = self._draw.choice(list(self._world.engines.values()))
        engine.pause()
        await asyncio.sleep(self._draw.uniform(0.5, 6))
        engine.resume()

    async def _move_engine(self) -> None:
        self._note("engine moved")
        old = self._world.move_engine(self._draw.choice(list(self._world.engines)))

        async def end() -> None:
            await asyncio.sleep(20)  # its streams end on their own
            old.kill()

        self._ending.append(asyncio.create_task(end()))

    async def _kill_gateway(self) -> None:
        self._note("gateway killed")
        gateway = self._draw.choice(self._world.gateways)
        gateway.kill()
        await asyncio.sleep(self._draw.uniform(0.1, 2))
        gateway.start()
        await _answers(self._world.ports[self._world.gateways.index(gateway)])
        gateway.is_back()

    async def _pause_gateway(self) -> None:
        self._note("gateway paused")
        gateway = self._draw.choice(self._world.gateways)
        gateway.pause()
        await asyncio.sleep(self._draw.uniform(0.5, 4))
        gateway.resume()

    async def _pause_redis(self) -> None:
        self._note("redis paused")
        self._world.redis.pause()
        await asyncio.sleep(self._draw.uniform(0.5, 3))
        self._world.redis.resume()

    async def _kill_redis(self) -> None:
        self._note("redis killed")
        self._world.redis.kill()
        await asyncio.sleep(self._draw.uniform(0.1, 2))
        self._world.redis.start()
        await _answers(self._world.redis_port)
        self._world.redis.is_back()

    async def _reload(self) -> None:
        self._note("gateway reloaded")
        self._draw.choice(self._world.gateways).process.send_signal(signal.SIGHUP)


async def _answers(port: int) -> None:
    """Returns once somebody listens there."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
