"""An OPC UA server: asyncua's own, on a free port, with two variables that clients may write."""

import threading

from asyncua import ua
from asyncua.sync import Server
from brokers import free_port


class OpcUaServer:
    """``Door.Occupied``, a boolean, and ``Door.People``, 16 bits; ``seen`` has each value that they had."""

    def __init__(self, port=0):
        self.port = port or free_port()
        self.url = f"opc.tcp://127.0.0.1:{self.port}"
        self.changed = threading.Condition()
        self.seen = []

    def __enter__(self):
        self._server = Server()
        self._server.set_endpoint(self.url)
        self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        assert self._server.register_namespace("urn:door") == 2
        rows = (("Door.Occupied", False, ua.VariantType.Boolean), ("Door.People", 0, ua.VariantType.UInt16))
        objects, nodes = self._server.nodes.objects, []
        for name, value, kind in rows:
            node = objects.add_variable(ua.NodeId(name, 2), ua.QualifiedName(name, 2), value, kind)
            node.set_writable()
            nodes.append(node)
        self._server.start()
        subscription = self._server.create_subscription(1, self)
        subscription.subscribe_data_change(nodes)
        return self

    def datachange_notification(self, node, value, _data):
        with self.changed:
            self.seen.append((node.nodeid.Identifier, value))
            self.changed.notify_all()

    def wait(self, name, value, timeout_s=30):
        with self.changed:
            assert self.changed.wait_for(lambda: (name, value) in self.seen, timeout_s), self.seen

    def __exit__(self, *_):
        self._server.stop()
