"""Ways to send a study from the clinic to the hub: thinwire and today's. All have the interface of `peer`."""

from benchmarks.link.peers.dcmtk import Storescu, StorescuJpeg2000, StorescuJpegLs, StorescuTls, StorescuTlsJpegLs
from benchmarks.link.peers.https import Https
from benchmarks.link.peers.orthanc import (
    OrthancPeer,
    OrthancPeerGzip,
    OrthancPeerTranscoded,
    OrthancStore,
    OrthancStow,
)
from benchmarks.link.peers.peer import Peer
from benchmarks.link.peers.rsync import Rsync, RsyncCompressed
from benchmarks.link.peers.thinwire import Thinwire, ThinwirePixels

PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Thinwire,
        ThinwirePixels,
        Storescu,
        StorescuJpegLs,
        StorescuJpeg2000,
        StorescuTls,
        StorescuTlsJpegLs,
        OrthancPeer,
        OrthancPeerGzip,
        OrthancPeerTranscoded,
        OrthancStow,
        OrthancStore,
        Https,
        Rsync,
        RsyncCompressed,
    )
}
