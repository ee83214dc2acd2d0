"""The generated code is what protoc makes of the .proto files, and the wire's bytes stay what they were."""

import subprocess
import sys
from pathlib import Path

import pytest

from thinwire.shared.wire.v1 import link_pb2 as wire

REPOSITORY = Path(__file__).parents[2]
PROTO = REPOSITORY / "proto" / "thinwire" / "shared" / "wire" / "v1"
GENERATED = REPOSITORY / "shared" / "thinwire" / "shared" / "wire" / "v1"


def test_the_generated_code_is_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpc_tools is not installed: the generated code is not checked")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{REPOSITORY / 'proto'}",
            *(f"--{way}_out={tmp_path}" for way in ("python", "pyi", "grpc_python")),
            *map(str, sorted(PROTO.glob("*.proto"))),
        ],
        check=True,
        cwd=REPOSITORY,
    )
    made = {path.name: path.read_bytes() for path in (tmp_path / "thinwire/shared/wire/v1").iterdir()}
    kept = {path.name: path.read_bytes() for path in GENERATED.glob("link_pb2*")}
    assert made.keys() == kept.keys()
    for name, data in made.items():
        assert data == kept[name], f"{name} is not current: run `make wire`"


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (wire.Up(hello=wire.Hello(version=1, software="s")), "0a05080112 0173"),
        (
            wire.Up(offer=wire.Offer(number=3, object=b"\x11" * 32, size=700, urgent=True, head=b"TW")),
            "122d0803 1220" + "11" * 32 + "18bc05 2001 2a025457",
        ),
        (wire.Up(chunk=wire.Chunk(number=3, offset=70000, data=b"abc")), "1a0b0803 10f0a204 1a03616263"),
        (wire.Up(receipt_taken=wire.ReceiptTaken(receipt=b"\x22" * 32)), "22220a20" + "22" * 32),
        (wire.Down(welcome=wire.Welcome(version=1)), "0a020801"),
        (wire.Up(chunk=wire.Chunk(number=3, offset=70000, data=b"abc", ask=True)), "1a0d0803 10f0a204 1a03616263 2001"),
        (wire.Down(progress=wire.Progress(number=3, durable=70000)), "1206080310f0a204"),
        (wire.Down(receipt=wire.Receipt(signed=b"abc")), "1a050a03616263"),
        (
            wire.Down(
                refusal=wire.Refusal(
                    number=3, code=wire.REFUSAL_CODE_DISK_FULL, what="w", remedy="r", again_after_ms=30000
                )
            ),
            "220e0803 1002 1a0177 220172 28b0ea01",
        ),
        (wire.Down(tier_request=wire.TierRequest(study=b"\x33" * 16, kind=3)), "2a140a10" + "33" * 16 + "1003"),
    ],
)
def test_golden_bytes(message: wire.Up | wire.Down, golden: str) -> None:
    assert message.SerializeToString(deterministic=True).hex() == golden.replace(" ", "")
