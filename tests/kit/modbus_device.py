"""A Modbus device: pymodbus' own server on a free port, in a thread."""

import asyncio
import threading

from brokers import free_port
from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import ModbusTcpServer

WRITE_COIL, WRITE_REGISTERS = 5, 16


class ModbusDevice:
    """Holding registers and coils that begin at 0, until ``close``; ``written`` has what clients write."""

    def __init__(self, values, port=0, coils=8):
        self.port = port or free_port()
        self.changed = threading.Condition()
        self.written = []
        registers = ModbusSequentialDataBlock(1, list(values))  # pymodbus adds one to a request's address
        bits = ModbusSequentialDataBlock(1, [False] * coils)
        device = ModbusDeviceContext(hr=registers, co=bits)
        self._context = ModbusServerContext(devices=device, single=True)
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._is_up.wait(60)

    @property
    def url(self):
        return f"tcp://127.0.0.1:{self.port}"

    async def _serve(self):
        self._loop = asyncio.get_running_loop()
        address = ("127.0.0.1", self.port)
        self._server = ModbusTcpServer(self._context, address=address, trace_pdu=self._note)
        await self._server.serve_forever(background=True)
        self._ended = asyncio.Event()
        self._is_up.set()
        await self._ended.wait()
        await self._server.shutdown()

    def _note(self, is_sent, pdu):
        if not is_sent and pdu.function_code in (WRITE_COIL, WRITE_REGISTERS):
            values = [bool(pdu.bits[0])] if pdu.function_code == WRITE_COIL else list(pdu.registers)
            with self.changed:
                self.written.append((pdu.function_code, pdu.address, values))
                self.changed.notify_all()
        return pdu

    def wait(self, written, timeout_s=30):
        """Wait until a client has written exactly this, in any order."""
        with self.changed:
            assert self.changed.wait_for(lambda: sorted(self.written) == sorted(written), timeout_s), (
                self.written
            )

    def close(self):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
