"""Enrols many clinics at a hub at once, with the hub's own program: the version of thinwire that is on the path.

python enrol.py DATA COUNT OUT      OUT: a file with one clinic a line, for `read_clinics`

Each has used its token, and the hub knows its epoch; its first connection puts its certificate in force. Only the
place of the keys differs from that of a clinic's: they are all in one file.
"""

import json
import sys
from pathlib import Path

from thinwire.receiver.hub import open_hub
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import new_epoch
from thinwire.shared.crypto.keys import new_request, new_signing_key, prove_join, read_token
from thinwire.shared.identifiers import site_name


def main(data: Path, count: int, out: Path) -> None:
    clock = SystemClock()
    with open_hub(data, clock) as hub, out.open("w", encoding="utf-8") as file:
        out.chmod(0o600)
        for number in range(count):
            site, signing = site_name(f"load-{number:05}"), new_signing_key()
            key, request = new_request(site)
            token = read_token(hub.enrolment.enrol(site)[0])
            public = signing.public_key().public_bytes_raw()
            joined = hub.enrolment.join(token.id, request, public, prove_join(signing, token.id, request))
            epoch, record = new_epoch(site, hub.keys.sealing.public, signing, clock)
            hub.enrolment.admit_epoch(site, record)
            row = {
                "site": site,
                "authority": token.authority_pem.decode(),
                "certificate": joined.certificate_pem.decode(),
                "key": key.decode(),
                "signing": signing.private_bytes_raw().hex(),
                "epoch": epoch.to_bytes().hex(),
                "record": record.hex(),
            }
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
