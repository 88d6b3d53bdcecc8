"""A Modbus device: pymodbus' own server on a free port, in a thread."""

import asyncio
import socket
import threading

from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import ModbusTcpServer


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ModbusDevice:
    """Holding registers that begin at 0, until ``close``."""

    def __init__(self, values, port=0):
        self.port = port or free_port()
        block = ModbusSequentialDataBlock(1, list(values))  # pymodbus adds one to a request's address
        self._context = ModbusServerContext(devices=ModbusDeviceContext(hr=block), single=True)
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._is_up.wait(10)

    @property
    def url(self):
        return f"tcp://127.0.0.1:{self.port}"

    async def _serve(self):
        self._loop = asyncio.get_running_loop()
        self._server = ModbusTcpServer(self._context, address=("127.0.0.1", self.port))
        await self._server.serve_forever(background=True)
        self._ended = asyncio.Event()
        self._is_up.set()
        await self._ended.wait()
        await self._server.shutdown()

    def close(self):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
