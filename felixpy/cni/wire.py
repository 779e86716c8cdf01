"""The frames between the shim and the agent: one request, one answer, and the connection ends.

In → out: bytes ↔ Request and Answer. A request is `FXQ1`, the lengths of its two parts (32 bits each, network order),
the environment as `NAME=value` ended by NUL each, and the network configuration as it came on standard input. An answer
is `FXA1`, exit status, length, and what to print. A DEL kept on disk is the same request frame. The pod's network
namespace travels as a descriptor beside the first byte (SCM_RIGHTS), so that the agent needs no view of the runtime's
mounts. Opens no socket, and gives the configuration no meaning. Written twice: here and in shim/felixpy-cni.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

CONFIG_MAX_BYTES = 1 << 20
ENVIRONMENT_MAX_BYTES = 1 << 16
OUTPUT_MAX_BYTES = 1 << 20
SOCKET_NAME = "cni.sock"
PENDING_NAME = "cni-pending"

_HEADER = Struct("!4sII")
HEADER_BYTES = _HEADER.size
_REQUEST_MAGIC = b"FXQ1"
_ANSWER_MAGIC = b"FXA1"
_VARIABLES = {
    "CNI_COMMAND": "command",
    "CNI_CONTAINERID": "container_id",
    "CNI_NETNS": "netns",
    "CNI_IFNAME": "ifname",
    "CNI_ARGS": "args",
    "CNI_PATH": "path",
}


class WireError(ValueError):
    """The bytes are no frame of ours, or larger than any may be."""


@dataclass(frozen=True, slots=True)
class Request:
    """One start of the plugin: its CNI_ variables (absent ones are "") and its standard input."""

    command: str
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: str = ""
    path: str = ""
    config: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the shim prints, and the status that it exits with."""

    exit_status: int
    output: bytes


def parse_request_header(header: bytes) -> tuple[int, int]:
    """Lengths in bytes of the environment and of the configuration that follow.

    Raises  WireError.
    """
    magic, environment_bytes, config_bytes = _unpack_header(header)
    if magic != _REQUEST_MAGIC:
        raise WireError("this is no request")
    if environment_bytes > ENVIRONMENT_MAX_BYTES or config_bytes > CONFIG_MAX_BYTES:
        raise WireError(f"a request of {environment_bytes} and {config_bytes} bytes is too large")
    return environment_bytes, config_bytes


def parse_request(frame: bytes) -> Request:
    """The request in a whole frame, header included; variables that are not CNI's are passed over.

    Raises  WireError.
    """
    environment_bytes, config_bytes = parse_request_header(frame[:HEADER_BYTES])
    if len(frame) != HEADER_BYTES + environment_bytes + config_bytes:
        raise WireError("the frame has another length than it says")
    environment = frame[HEADER_BYTES : HEADER_BYTES + environment_bytes]
    if environment and not environment.endswith(b"\0"):
        raise WireError("the environment does not end in NUL")
    fields: dict[str, str] = {}
    for variable in environment.split(b"\0")[:-1]:
        name, _, value = variable.partition(b"=")
        field = _VARIABLES.get(name.decode(errors="replace"))
        if field is not None:
            try:
                fields[field] = value.decode()
            except UnicodeDecodeError:
                raise WireError(f"{name.decode()} is not UTF-8") from None
    if "command" not in fields:
        raise WireError("CNI_COMMAND is missing")
    return Request(**fields, config=frame[HEADER_BYTES + environment_bytes :])


def render_request(request: Request) -> bytes:
    """The frame of a request."""
    environment = b"".join(
        f"{variable}={value}\0".encode() for variable, field in _VARIABLES.items() if (value := getattr(request, field))
    )
    return _HEADER.pack(_REQUEST_MAGIC, len(environment), len(request.config)) + environment + request.config


def parse_answer_header(header: bytes) -> tuple[int, int]:
    """Exit status, and length in bytes of the output that follows.

    Raises  WireError.
    """
    magic, exit_status, output_bytes = _unpack_header(header)
    if magic != _ANSWER_MAGIC or output_bytes > OUTPUT_MAX_BYTES:
        raise WireError("this is no answer")
    return exit_status, output_bytes


def render_answer(answer: Answer) -> bytes:
    """The frame of an answer."""
    return _HEADER.pack(_ANSWER_MAGIC, answer.exit_status, len(answer.output)) + answer.output


def pending_name(container_id: str, ifname: str) -> str:
    """Name of the file below PENDING_NAME in which the shim keeps a DEL."""
    return f"{container_id}-{ifname}"


def _unpack_header(header: bytes) -> tuple[bytes, int, int]:
    if len(header) != HEADER_BYTES:
        raise WireError("the frame ends inside its header")
    magic, first, second = _HEADER.unpack(header)
    return magic, first, second
