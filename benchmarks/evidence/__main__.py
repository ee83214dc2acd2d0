"""Takes a result into the documents' folders.

python -m benchmarks.evidence --take DIR/evaluation.json evaluation_phantoms
python -m benchmarks.evidence --take benchmarks/results/thumbnails.json thumbnails      its picture alone
"""

import argparse
from pathlib import Path

from benchmarks.evidence.excerpt import take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", nargs=2, metavar=("FILE", "NAME"), required=True)
    source, name = parser.parse_args().take
    for path in take(Path(source), name):
        print(f"{path} {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
