"""A plain HTTPS upload: curl at the clinic, a server that writes, syncs, renames and answers at the hub.

python -m benchmarks.link.peers.https ADDRESS PORT FOLDER CERTIFICATE KEY      the server
"""

import os
import ssl
import sys
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.link.lab import Lab
from benchmarks.link.peers.certificates import make_certificates
from benchmarks.link.peers.peer import TLS_NAME, Peer, Sending, same_pixels

PORT = 8443


class Https(Peer):
    name = "https"
    programs = ("curl",)
    package = "curl"
    ports = (PORT,)
    retries = "nothing: a person gives the command again"

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder)
        self._certificates = make_certificates(folder, TLS_NAME)
        self._stored: dict[Path, float] = {}

    def start_hub(self) -> None:
        made = self._certificates
        words = [self.lab.hub_bind, str(PORT), str(self.at_hub), str(made.certificate), str(made.key)]
        self.hub_process = self.lab.hub([sys.executable, "-m", __name__, *words], self.log)

    def command(self, study: Path, urgent: bool) -> Sequence[str]:
        host, port = self.lab.reach(PORT)
        words = ["--cacert", str(self._certificates.authority), "--resolve", f"{TLS_NAME}:{port}:{host}"]
        return ["curl", "-sSf", *words, "-H", "Expect:", "-T", str(study), f"https://{TLS_NAME}:{port}/{study.name}"]

    def moments(self, sending: Sending) -> dict[str, float]:
        # The name is there only once the file is whole and synced.
        if sending.study not in self._stored and (self.at_hub / sending.study.name).exists():
            self._stored[sending.study] = time.monotonic()
        return {"stored": self._stored[sending.study]} if sending.study in self._stored else {}

    def verified(self, sending: Sending) -> bool:
        return same_pixels(sending.study, self.at_hub / sending.study.name)


class _Upload(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        final = self.folder / Path(self.path).name
        part = final.with_name(f".{final.name}.part")
        with part.open("wb") as file:
            while left:
                data = self.rfile.read1(min(left, 1 << 16))
                if not data:
                    return
                file.write(data)
                left -= len(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(final)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Server(ThreadingHTTPServer):
    def finish_request(self, request: object, client_address: object) -> None:
        # In the connection's own thread: a handshake on a slow link must not hold up the others.
        assert isinstance(request, ssl.SSLSocket)
        request.do_handshake()
        super().finish_request(request, client_address)


def main() -> None:
    address, port, folder, certificate, key = sys.argv[1:]
    _Upload.folder = Path(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    with _Server((address, int(port)), _Upload) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.serve_forever()


if __name__ == "__main__":
    main()
