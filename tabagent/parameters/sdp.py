"""Session descriptions (SDP, RFC 8866) of a WebRTC data channel (RFC 8841), read strictly.

Only what a data channel needs may be in one, and only once: a peer that is handed a description
parses every line of it, and what is not understood here is not handed on.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from tabagent.errors import InvalidRequest, PayloadTooLarge
from tabagent.parameters import invalid

Kind = Literal["offer", "answer"]

LARGEST: Final = 16 * 1024
"""Bytes of a description."""
CANDIDATES: Final = 64
"""Most candidates of one side."""
LARGEST_CANDIDATE: Final = 1024

LINE: Final = re.compile("[a-z]=[ -~]*")
MEDIA: Final = re.compile(
    r"application (\d{1,5}) ((?:UDP|TCP)/DTLS/SCTP) webrtc-datachannel", re.ASCII
)
UFRAG: Final = re.compile("[A-Za-z0-9+/]{4,256}")
PASSWORD: Final = re.compile("[A-Za-z0-9+/]{22,256}")
MID: Final = re.compile("[A-Za-z0-9_.+-]{1,32}")
WHOLE: Final = re.compile("[0-9]{1,10}")
DIGESTS: Final = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
DIGEST: Final = re.compile("[0-9A-F]{2}(:[0-9A-F]{2})*", re.IGNORECASE)
FOUNDATION: Final = re.compile("[A-Za-z0-9+/]{1,32}")
NAME: Final = re.compile("(?=.{1,253}$)[A-Za-z0-9-]{1,63}([.][A-Za-z0-9-]{1,63})+")
TYPES: Final = {"host", "srflx", "prflx", "relay"}
SETUPS: Final[dict[Kind, set[str]]] = {"offer": {"actpass"}, "answer": {"active", "passive"}}
ONCE: Final = {
    "ice-ufrag", "ice-pwd", "fingerprint", "setup", "mid", "sctp-port", "max-message-size",
}  # fmt: skip
NOWHERE: Final = {"c=": "c=IN IP4 0.0.0.0", "m=": "m="}
DEFAULT_MESSAGE: Final = 65_536  # RFC 8841, section 6
SMALLEST_MESSAGE: Final = 16_384  # less is no data channel that anybody makes


@dataclass(frozen=True, slots=True)
class Description:
    """What is in it, and `text`, which says the same."""

    text: str
    protocol: str
    mid: str
    ufrag: str
    password: str
    algorithm: str
    fingerprint: str
    sctp_port: int
    max_message_size: int  # bytes; 0 is any

    def without_candidates(self) -> str:
        """The text, where nobody can be told to send something somewhere."""
        gone = ("a=candidate:", "a=end-of-candidates", "a=remote-candidates:")
        lines = [line for line in self.text.splitlines() if not line.startswith(gone)]
        return "".join(NOWHERE.get(line[:2], line) + "\r\n" for line in lines).replace(
            "\r\nm=\r\n", f"\r\nm=application 9 {self.protocol} webrtc-datachannel\r\n"
        )


def read_description(text: str, kind: Kind) -> Description:
    """Raises PayloadTooLarge, or InvalidRequest that says what is wrong."""
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST:
        raise PayloadTooLarge(
            f"sdp: a description has at most {LARGEST} bytes", limit_bytes=LARGEST, param="sdp"
        )
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    for line in lines:
        # Python takes a dozen characters for the end of a line, others two of them.
        if not LINE.fullmatch(line):
            raise _wrong("is not made of lines such as a=mid:0, in ASCII")
    if lines[0] != "v=0":
        raise _wrong("does not begin with v=0")
    if text[-1] != "\n":
        raise _wrong("ends within a line")
    _check_connection(lines)
    media = [line[2:] for line in lines if line.startswith("m=")]
    found = MEDIA.fullmatch(media[0]) if len(media) == 1 else None
    if found is None:
        raise _wrong("must have one section, for a data channel, and none for audio or video")
    if not 0 < int(found[1]) <= 65535:
        raise _wrong("has a port that is none")
    values = _attributes(lines)
    algorithm, fingerprint = _fingerprint(_one(values, "fingerprint"))
    if _one(values, "setup") not in SETUPS[kind]:
        raise _wrong(f"is no {kind}: a=setup must be {' or '.join(sorted(SETUPS[kind]))}")
    return Description(
        text=text,
        protocol=found[2],
        mid=_matching(MID, values, "mid"),
        ufrag=_matching(UFRAG, values, "ice-ufrag"),
        password=_matching(PASSWORD, values, "ice-pwd"),
        algorithm=algorithm,
        fingerprint=fingerprint,
        sctp_port=_number(values, "sctp-port", 1, 65535),
        max_message_size=_message_size(values),
    )


def check_candidate(text: str) -> None:
    """A candidate as RFC 8839 writes it. Raises ValueError that says what is wrong."""
    if len(text) > LARGEST_CANDIDATE or not re.fullmatch("[ -~]*", text):
        raise ValueError(f"must be at most {LARGEST_CANDIDATE} characters of ASCII")
    parts = text.removeprefix("candidate:").split(" ")
    if len(parts) < 8 or parts[6] != "typ":
        raise ValueError("is not `foundation component transport priority address port typ type`")
    foundation, component, transport, priority, address, port, _, kind = parts[:8]
    if not FOUNDATION.fullmatch(foundation) or transport.lower() not in ("udp", "tcp"):
        raise ValueError("has no foundation, or a transport that is not udp or tcp")
    if not (_within(component, 1, 256) and _within(priority, 0, 2**32 - 1)):
        raise ValueError("has a component or a priority that is none")
    if not _within(port, 0, 65535) or not (_is_address(address) or NAME.fullmatch(address)):
        raise ValueError("has an address or a port that is none")
    if kind not in TYPES:
        raise ValueError("has a type that is none")


def _attributes(lines: Iterable[str]) -> dict[str, str]:
    """The attributes that matter, which are given once; candidates are looked at, and counted."""
    values: dict[str, str] = {}
    candidates = 0
    for line in lines:
        if not line.startswith("a="):
            continue
        name, _, value = line[2:].partition(":")
        if name == "candidate":
            candidates += 1
            _checked(value)
        elif name == "ice-lite":
            raise _wrong("is of an ICE-lite peer, which never says where it is")
        elif name in ONCE:
            if name in values:
                raise _wrong(f"has a={name} twice")
            values[name] = value
    if candidates > CANDIDATES:
        raise _wrong(f"has more than {CANDIDATES} candidates")
    return values


def _checked(candidate: str) -> None:
    try:
        check_candidate(candidate)
    except ValueError as error:
        raise _wrong(f"has a candidate that {error}") from None


def _check_connection(lines: Iterable[str]) -> None:
    for line in lines:
        if line.startswith("c="):
            parts = line[2:].split(" ")
            if len(parts) != 3 or parts[0] != "IN" or not _is_address(parts[2]):
                raise _wrong("has an address that is none")


def _fingerprint(value: str) -> tuple[str, str]:
    algorithm, _, digest = value.partition(" ")
    algorithm = algorithm.lower()
    if algorithm not in DIGESTS:
        raise _wrong(f"must have a fingerprint that is {', '.join(DIGESTS)}")
    if not DIGEST.fullmatch(digest) or len(digest) != DIGESTS[algorithm] * 3 - 1:
        raise _wrong("has a fingerprint that is none")
    return algorithm, digest.upper()


def _message_size(values: dict[str, str]) -> int:
    if "max-message-size" not in values:
        return DEFAULT_MESSAGE
    size = _number(values, "max-message-size", 0, 2**33)
    if 0 < size < SMALLEST_MESSAGE:
        raise _wrong(f"must take messages of {SMALLEST_MESSAGE} bytes")
    return size


def _one(values: dict[str, str], name: str) -> str:
    if name not in values:
        raise _wrong(f"has no a={name}")
    return values[name]


def _matching(pattern: re.Pattern[str], values: dict[str, str], name: str) -> str:
    value = _one(values, name)
    if not pattern.fullmatch(value):
        raise _wrong(f"has an a={name} that is none")
    return value


def _number(values: dict[str, str], name: str, least: int, most: int) -> int:
    value = _one(values, name)
    if not _within(value, least, most):
        raise _wrong(f"has an a={name} that is none")
    return int(value)


def _within(value: str, least: int, most: int) -> bool:
    return bool(WHOLE.fullmatch(value)) and least <= int(value) <= most


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _wrong(detail: str) -> InvalidRequest:
    return invalid("/sdp", detail)
