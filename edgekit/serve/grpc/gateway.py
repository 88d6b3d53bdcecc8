"""The gRPC server: each call is one request to the server behind it. Alone imports grpc."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, EdgekitError, LinkError
from edgekit.serve.grpc.convert import config_of, fill_answer, parameters_of, request_of
from edgekit.serve.grpc.messages import PACKAGE, messages
from edgekit.serve.upstream import Upstream

_SERVICE = f"{PACKAGE}.GRPCInferenceService"
_LENGTH = "inference-header-content-length"
_PASSED_ON = ("authorization", "traceparent", "x-edgekit-client")
_MOST_BYTES = 64 << 20
_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED", 409: "FAILED_PRECONDITION", 413: "INVALID_ARGUMENT", 415: "UNIMPLEMENTED",
    429: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Gateway:
    """Answers gRPC calls at an address, through the server at ``target``.

    Raises:
        ConfigError: The libraries of the extra ``grpc`` are not installed.
    """

    def __init__(self, target: str) -> None:
        try:
            import grpc
            import grpc.aio

            self._types = messages()
        except ImportError as cause:
            raise ConfigError("gRPC needs grpcio and protobuf", hint=install_hint("grpc")) from cause
        self._grpc, self._upstream = grpc, Upstream(target)

    async def serve(self, address: str, on_ready: Callable[[int], object] = lambda _port: None) -> None:
        """Answer at ``host:port`` (0: any free port, which ``on_ready`` gets) until it is cancelled.

        Raises:
            ConfigError: The address cannot be used.
        """
        options = [("grpc.max_receive_message_length", _MOST_BYTES), ("grpc.so_reuseport", 0)]
        server = self._grpc.aio.server(options=options)
        handlers = {name: self._handler(name, call) for name, call in self._calls().items()}
        stream = self._grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=self._types["ModelInferRequest"].FromString,
            response_serializer=self._types["ModelStreamInferResponse"].SerializeToString,
        )
        handlers["ModelStreamInfer"] = stream
        server.add_generic_rpc_handlers((self._grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as cause:
            raise ConfigError(f"gRPC cannot listen on {address}: {cause}") from cause
        await server.start()
        on_ready(port)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await server.stop(1.0)
            await self._upstream.close()

    def _calls(self) -> dict[str, Callable[[Any, Any], Awaitable[Any]]]:
        return {
            "ServerLive": self._is_true("/v2/health/live", "live"),
            "ServerReady": self._is_true("/v2/health/ready", "ready"),
            "ModelReady": self._is_true("", "ready"),
            "ServerMetadata": lambda call, _: call.get("/v2"),
            "ModelMetadata": lambda call, asked: call.get(_model(asked)),
            "ModelConfig": self._config,
            "ModelStatistics": lambda call, asked: call.get(f"{_model(asked)}/stats"),
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load("load"),
            "RepositoryModelUnload": self._load("unload"),
            "SystemSharedMemoryStatus": self._regions,
            "SystemSharedMemoryRegister": self._register,
            "SystemSharedMemoryUnregister": lambda call, asked: call.post(f"{_region(asked)}/unregister"),
            "TraceSetting": self._trace,
            "LogSettings": self._log,
            "ModelInfer": self._infer,
        }

    def _handler(self, name: str, answer: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        response = self._types[f"{name}Response"]

        async def handle(request: Any, context: Any) -> Any:
            try:
                found = await answer(_Call(self._upstream, context), request)
            except _RefusedError as refused:
                await self._abort(context, refused.status, refused.message)
            except LinkError as error:
                await self._abort(context, 503, error.message)
            except EdgekitError as error:
                await self._abort(context, 400, error.message)
            return self._filled(response(), found) if isinstance(found, dict) else found

        return self._grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=self._types[f"{name}Request"].FromString,
            response_serializer=response.SerializeToString,
        )

    async def _abort(self, context: Any, status: int, message: str) -> None:
        await context.abort(getattr(self._grpc.StatusCode, _CODES.get(status, "INTERNAL")), message)

    def _filled(self, message: Any, document: dict[str, Any]) -> Any:
        from google.protobuf import json_format

        return json_format.ParseDict(document, message, ignore_unknown_fields=True)

    # -- calls

    def _is_true(self, path: str, field: str) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(call: _Call, asked: Any) -> dict[str, Any]:
            status, _, _ = await call.ask("GET", path or f"{_model(asked)}/ready")
            if status not in (200, 503):
                raise _RefusedError(status, f"{path or _model(asked)} answers {status}")
            return {field: status == 200}

        return answer

    async def _config(self, call: _Call, asked: Any) -> dict[str, Any]:
        return {"config": config_of(await call.get(f"{_model(asked)}/config"))}

    async def _index(self, call: _Call, asked: Any) -> dict[str, Any]:
        return {"models": await call.post("/v2/repository/index", {"ready": asked.ready})}

    def _load(self, what: str) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(call: _Call, asked: Any) -> Any:
            parameters = parameters_of(asked.parameters)
            return await call.post(
                f"/v2/repository/models/{_segment(asked.model_name)}/{what}",
                {"parameters": parameters} if parameters and what == "load" else {},
            )

        return answer

    async def _regions(self, call: _Call, asked: Any) -> dict[str, Any]:
        rows = await call.get(f"{_region(asked)}/status")
        return {"regions": {row["name"]: row for row in rows}}

    async def _register(self, call: _Call, asked: Any) -> Any:
        given = {"key": asked.key, "offset": asked.offset, "byte_size": asked.byte_size}
        return await call.post(f"{_region(asked)}/register", given)

    async def _trace(self, call: _Call, asked: Any) -> dict[str, Any]:
        path = _model(asked, asked.model_name) if asked.model_name else "/v2"
        given = {name: list(each.value) or None for name, each in asked.settings.items()}
        told = await (
            call.post(f"{path}/trace/setting", given) if given else call.get(f"{path}/trace/setting")
        )
        rows = {name: value if isinstance(value, list) else [value] for name, value in told.items()}
        return {"settings": {name: {"value": value} for name, value in rows.items()}}

    async def _log(self, call: _Call, asked: Any) -> dict[str, Any]:
        given = parameters_of(asked.settings)
        told = await (call.post("/v2/logging", given) if given else call.get("/v2/logging"))
        kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
        return {"settings": {name: {kinds[type(value)]: value} for name, value in told.items()}}

    async def _infer(self, call: _Call, asked: Any) -> Any:
        body, length = request_of(asked)
        headers = [(_LENGTH, str(length)), *call.deadline()]
        path = f"{_model(asked, asked.model_name, asked.model_version)}/infer"
        status, answered, data = await call.ask("POST", path, body, headers)
        if status != 200:
            raise _refused(status, data)
        message = self._types["ModelInferResponse"]()
        stated = answered.get(_LENGTH)
        fill_answer(message, data, None if stated is None else int(stated))
        return message

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer each request of a stream, in order; an error is one answer, and not the end."""
        call, response = _Call(self._upstream, context), self._types["ModelStreamInferResponse"]
        async for request in requests:
            message = response()
            try:
                message.infer_response.CopyFrom(await self._infer(call, request))
            except _RefusedError as refused:
                message.error_message = refused.message
            except EdgekitError as error:
                message.error_message = error.message
            if message.error_message:
                message.infer_response.id = request.id
            yield message


class _Call:
    """The requests that one call makes, with its deadline and who makes it."""

    def __init__(self, upstream: Upstream, context: Any) -> None:
        self._upstream, self._context = upstream, context
        given = context.invocation_metadata() or ()
        self._headers = [(name, value) for name, value in given if name in _PASSED_ON]
        kind, _, peer = context.peer().partition(":")  # such as ipv4:127.0.0.1:4711
        host = unquote(peer.rpartition(":")[0]).strip("[]")
        if not any(name == "x-edgekit-client" for name, _ in self._headers):
            self._headers.append(("x-edgekit-client", host[:64]))
        if kind != "unix" and host != "::1" and not host.startswith("127."):
            self._headers.append(("x-edgekit-remote", "1"))

    def deadline(self) -> list[tuple[str, str]]:
        """Return the header with the milliseconds that are left."""
        left_s = self._context.time_remaining()
        return (
            [] if left_s is None else [("x-request-timeout-ms", str(max(1, min(int(left_s * 1e3), 10**8))))]
        )

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Any = ()
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request on."""
        return await self._upstream.ask(method, path, body, (*self._headers, *headers))

    async def get(self, path: str) -> Any:
        """Return a document."""
        return self._document(*await self.ask("GET", path))

    async def post(self, path: str, given: Any = None) -> Any:
        """Send a document and return the answer's."""
        return self._document(*await self.ask("POST", path, msgspec.json.encode(given or {})))

    def _document(self, status: int, _headers: object, body: bytes) -> Any:
        if status != 200:
            raise _refused(status, body)
        return msgspec.json.decode(body)


def _refused(status: int, body: bytes) -> _RefusedError:
    message = body.decode(errors="replace")
    with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError):
        message = msgspec.json.decode(body)["error"]
    return _RefusedError(status, message)


def _model(asked: Any, name: str = "", version: str = "") -> str:
    name, version = name or asked.name, version or getattr(asked, "version", "")
    path = f"/v2/models/{_segment(name)}" if name else "/v2/models"
    return f"{path}/versions/{_segment(version)}" if version else path


def _region(asked: Any) -> str:
    return f"/v2/systemsharedmemory/region/{_segment(asked.name)}" if asked.name else "/v2/systemsharedmemory"


def _segment(name: str) -> str:
    return quote(name, safe="")
