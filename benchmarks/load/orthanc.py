"""Orthanc with its index in PostgreSQL, beside thinwire with the same studies, database server and machine.

Both end with every file on disk and its rows in PostgreSQL. They do different work. Orthanc takes a file by C-STORE
without TLS, and indexes its tags. thinwire opens and verifies three sealed and signed objects of a study over TLS,
examines the archive and the graph, signs a receipt for each object, predicts the graph and orders the worklist.
"""

import asyncio
import json
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.load.cluster import DURABLE
from benchmarks.load.fleet import Fleet
from benchmarks.load.hub import PATIENCE, LoadHub
from benchmarks.load.processes import free_port, used
from benchmarks.load.scenarios import Row
from benchmarks.load.studies import StudyMaker
from tests.support.peers import debian, running
from tests.support.postgresql import PostgresServer
from thinwire.shared.crypto.envelope import Kind

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancPostgreSQLIndex.so")
KINDS = (Kind.GRAPH, Kind.MANIFEST, Kind.ORIGINALS)
SENDERS = 4
CLINICS = 100


def installed() -> bool:
    """Whether Debian's orthanc, orthanc-postgresql and dcmtk are."""
    return PLUGIN.exists() and debian("Orthanc") is not None and debian("storescu") is not None


def orthanc(folder: Path, postgres: PostgresServer, maker: StudyMaker, studies: int) -> Row:
    """Receive so many studies, by SENDERS associations at once. postgres: on TCP, with an empty database."""
    folder.mkdir(parents=True)
    dicom, http = free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "DicomServerEnabled": True,
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "PostgreSQL": {
            "EnableIndex": True,
            "EnableStorage": False,
            "Host": "127.0.0.1",
            "Port": postgres.port,
            "Database": "postgres",
            "Username": "postgres",
            "Password": "",
            "IndexConnectionsCount": SENDERS,
        },
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    for n in range(studies):
        path = folder / f"from-{n % SENDERS}" / f"{n}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(maker.file(n))
    program, sender = debian("Orthanc"), debian("storescu")
    assert program is not None
    assert sender is not None
    with running([program, str(folder / "orthanc.json")], http) as process:
        store = [sender, "-aec", "ORTHANC", "+sd", "127.0.0.1", str(dicom)]
        before, base = used([process.pid]), used([postgres.pid])
        began = time.monotonic()
        senders = [subprocess.Popen([*store, str(folder / f"from-{n}")]) for n in range(min(SENDERS, studies))]
        codes = [each.wait(PATIENCE) for each in senders]
        took = time.monotonic() - began
        after, database = used([process.pid]), used([postgres.pid])
    if any(codes):
        raise RuntimeError(f"storescu ended with {codes}")
    return {
        "peer": "Orthanc, index in PostgreSQL",
        "studies": studies,
        "studies_a_second": round(studies / took, 1),
        "processor_ms_a_study": round(1000 * (after.seconds - before.seconds) / studies, 2),
        "database_ms_a_study": round(1000 * (database.seconds - base.seconds) / studies, 2),
        "memory_mb": round(after.megabytes, 1),
        "threads": after.threads,
    }


async def thinwire(folder: Path, postgres: PostgresServer, maker: StudyMaker, studies: int, clinics: int) -> Row:
    """The same files, from so many clinics; the hub's database is in `postgres`."""
    hub = LoadHub(folder, environment={"THINWIRE_RECEIVER_DATABASE": postgres.url()})
    joined = await asyncio.to_thread(hub.make, clinics)
    server = hub.serve()
    try:
        fleet = Fleet(joined, lambda: server.target)
        made = [(fleet.clinics[n % clinics], n) for n in range(studies)]
        given = [(clinic, maker.make(clinic.clinic, n, KINDS)) for clinic, n in made]
        async with fleet.running(2.0):
            await fleet.all_connected(PATIENCE)
            before, base = server.used, used([postgres.pid])
            began = time.monotonic()
            for clinic, study in given:
                clinic.give(study)
            done = await fleet.all_done(PATIENCE)
            took = time.monotonic() - began
            after, database = server.used, used([postgres.pid])
            result = fleet.ledger.result()
    finally:
        server.kill()
    return {
        "peer": "thinwire, database in PostgreSQL",
        "studies": studies,
        "clinics": clinics,
        "done": done,
        "studies_a_second": round(studies / took, 1),
        "studies_acknowledged_a_second": round(studies / result["seconds_to_acknowledged"]["most"], 1),
        "processor_ms_a_study": round(1000 * (after.seconds - before.seconds) / studies, 2),
        "database_ms_a_study": round(1000 * (database.seconds - base.seconds) / studies, 2),
        "memory_mb": round(after.megabytes, 1),
        "threads": after.threads,
    }


def beside(folder: Path, maker: StudyMaker, studies: int, clinics: int) -> list[Row]:
    """Both, each with a database server of its own that makes its commits durable."""
    rows = []
    for name in ("orthanc", "thinwire"):
        postgres = PostgresServer(tcp=True, settings=DURABLE)
        try:
            postgres.start()
            if name == "orthanc":
                rows.append(orthanc(folder / name, postgres, maker, studies))
            else:
                rows.append(asyncio.run(thinwire(folder / name, postgres, maker, studies, clinics)))
        finally:
            postgres.remove()
            shutil.rmtree(folder / name, ignore_errors=True)
        print(json.dumps(rows[-1]), flush=True)
    return rows
