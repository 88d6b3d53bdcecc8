"""The protocol's messages, made at run time in a private descriptor pool. Alone imports protobuf.

In the default pool they would clash with those of a client library in the same process: tritonclient and
kserve cannot be imported together for that reason.

Source: kserve/open-inference-protocol, open_inference_grpc.proto; Triton's grpc_service.proto and
model_config.proto for the extensions. A nested message there is a plain one here: on the wire they are one.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = "inference"
# A message's fields: name=number, a string; or name=number:type, with * for a list of it, {type} for a map
# from strings to it, and ? for one of several of which one is set.
_MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        "ServerLiveRequest": "",
        "ServerLiveResponse": "live=1:bool",
        "ServerReadyRequest": "",
        "ServerReadyResponse": "ready=1:bool",
        "ModelReadyRequest": "name=1 version=2",
        "ModelReadyResponse": "ready=1:bool",
        "ServerMetadataRequest": "",
        "ServerMetadataResponse": "name=1 version=2 extensions=3:*string",
        "ModelMetadataRequest": "name=1 version=2",
        "TensorMetadata": "name=1 datatype=2 shape=3:*int64",
        "ModelMetadataResponse": (
            "name=1 versions=2:*string platform=3 inputs=4:*TensorMetadata outputs=5:*TensorMetadata"
        ),
        "InferParameter": (
            "bool_param=1:?bool int64_param=2:?int64 string_param=3:?string double_param=4:?double"
            " uint64_param=5:?uint64"
        ),
        "InferTensorContents": (
            "bool_contents=1:*bool int_contents=2:*int32 int64_contents=3:*int64 uint_contents=4:*uint32"
            " uint64_contents=5:*uint64 fp32_contents=6:*float fp64_contents=7:*double"
            " bytes_contents=8:*bytes"
        ),
        "InferInputTensor": (
            "name=1 datatype=2 shape=3:*int64 parameters=4:{InferParameter} contents=5:InferTensorContents"
        ),
        "InferRequestedOutputTensor": "name=1 parameters=2:{InferParameter}",
        "InferOutputTensor": (
            "name=1 datatype=2 shape=3:*int64 parameters=4:{InferParameter} contents=5:InferTensorContents"
        ),
        "ModelInferRequest": (
            "model_name=1 model_version=2 id=3 parameters=4:{InferParameter} inputs=5:*InferInputTensor"
            " outputs=6:*InferRequestedOutputTensor raw_input_contents=7:*bytes"
        ),
        "ModelInferResponse": (
            "model_name=1 model_version=2 id=3 parameters=4:{InferParameter} outputs=5:*InferOutputTensor"
            " raw_output_contents=6:*bytes"
        ),
        "ModelStreamInferResponse": "error_message=1 infer_response=2:ModelInferResponse",
        "ModelConfigRequest": "name=1 version=2",
        "ModelInput": "name=1 data_type=2:int32 dims=4:*int64 optional=8:bool",
        "ModelOutput": "name=1 data_type=2:int32 dims=3:*int64",
        "EveryVersion": "",
        "ModelVersionPolicy": "all=2:EveryVersion",
        "ModelInstanceGroup": "name=1 count=2:int32",
        "ModelDynamicBatching": (
            "preferred_batch_size=1:*int32 max_queue_delay_microseconds=2:uint64 priority_levels=4:uint64"
            " default_priority_level=5:uint64"
        ),
        "ModelSequenceBatching": "max_sequence_idle_microseconds=1:uint64",
        "EnsembleStep": "model_name=1 model_version=2:int64 input_map=3:{string} output_map=4:{string}",
        "ModelEnsembling": "step=1:*EnsembleStep",
        "ModelParameter": "string_value=1",
        "ModelResponseCache": "enable=1:bool",
        "ModelConfig": (
            "name=1 platform=2 version_policy=3:ModelVersionPolicy max_batch_size=4:int32 input=5:*ModelInput"
            " output=6:*ModelOutput instance_group=7:*ModelInstanceGroup"
            " dynamic_batching=11:ModelDynamicBatching sequence_batching=13:ModelSequenceBatching"
            " parameters=14:{ModelParameter} ensemble_scheduling=15:ModelEnsembling backend=17"
            " response_cache=24:ModelResponseCache"
        ),
        "ModelConfigResponse": "config=1:ModelConfig",
        "ModelStatisticsRequest": "name=1 version=2",
        "StatisticDuration": "count=1:uint64 ns=2:uint64",
        "InferStatistics": (
            "success=1:StatisticDuration fail=2:StatisticDuration queue=3:StatisticDuration"
            " compute_input=4:StatisticDuration compute_infer=5:StatisticDuration"
            " compute_output=6:StatisticDuration cache_hit=7:StatisticDuration cache_miss=8:StatisticDuration"
        ),
        "ModelStatistics": (
            "name=1 version=2 last_inference=3:uint64 inference_count=4:uint64 execution_count=5:uint64"
            " inference_stats=6:InferStatistics"
        ),
        "ModelStatisticsResponse": "model_stats=1:*ModelStatistics",
        "ModelRepositoryParameter": "bool_param=1:?bool int64_param=2:?int64 string_param=3:?string",
        "RepositoryIndexRequest": "repository_name=1 ready=2:bool",
        "ModelIndex": "name=1 version=2 state=3 reason=4",
        "RepositoryIndexResponse": "models=1:*ModelIndex",
        "RepositoryModelLoadRequest": (
            "repository_name=1 model_name=2 parameters=3:{ModelRepositoryParameter}"
        ),
        "RepositoryModelLoadResponse": "",
        "RepositoryModelUnloadRequest": (
            "repository_name=1 model_name=2 parameters=3:{ModelRepositoryParameter}"
        ),
        "RepositoryModelUnloadResponse": "",
        "SystemSharedMemoryStatusRequest": "name=1",
        "RegionStatus": "name=1 key=2 offset=3:uint64 byte_size=4:uint64",
        "SystemSharedMemoryStatusResponse": "regions=1:{RegionStatus}",
        "SystemSharedMemoryRegisterRequest": "name=1 key=2 offset=3:uint64 byte_size=4:uint64",
        "SystemSharedMemoryRegisterResponse": "",
        "SystemSharedMemoryUnregisterRequest": "name=1",
        "SystemSharedMemoryUnregisterResponse": "",
        "TraceValue": "value=1:*string",
        "TraceSettingRequest": "settings=1:{TraceValue} model_name=2",
        "TraceSettingResponse": "settings=1:{TraceValue}",
        "LogValue": "bool_param=1:?bool uint32_param=2:?uint32 string_param=3:?string",
        "LogSettingsRequest": "settings=1:{LogValue}",
        "LogSettingsResponse": "settings=1:{LogValue}",
    }
)
_ONE_OF = "parameter_choice"


def messages() -> dict[str, Any]:
    """Return a class for each message, by its name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="edgekit.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            _add(message, name, text)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"{PACKAGE}.{name}")) for name in _MESSAGES}


def _add(message: Any, owner: str, text: str) -> None:
    """Add a field that is written as ``_MESSAGES`` has it."""
    place, _, kind = text.partition(":")
    name, _, number = place.partition("=")
    field = message.field.add(name=name, number=int(number), label=3 if kind[:1] in ("*", "{") else 1)
    if kind.startswith("{"):
        entry = message.nested_type.add(name="".join(map(str.capitalize, name.split("_"))) + "Entry")
        entry.options.map_entry = True
        _type(entry.field.add(name="key", number=1, label=1), "string")
        _type(entry.field.add(name="value", number=2, label=1), kind.strip("{}"))
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{owner}.{entry.name}"
        return
    if kind.startswith("?"):
        if not message.oneof_decl:
            message.oneof_decl.add(name=_ONE_OF)
        field.oneof_index = 0
    _type(field, kind.strip("*?") or "string")


def _type(field: Any, kind: str) -> None:
    if kind in _MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
