"""Builds the Debian package of one end: `python packaging/build_deb.py sender --out build/packages`.

The package holds a virtual environment in /opt with every package of the lock, so that it is installed without a
network. It is for the Python of the machine that builds it: build on the Debian release that is to be installed.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"
"""Debian's own, which the packaged environment runs on."""
ENDS = {
    "sender": ("clinic.lock", ["thinwire-sender.service"], "technician.md", "accepts chest X-rays and sends them"),
    "receiver": (
        "hub.lock",
        ["thinwire-receiver.service", "thinwire-work@.service"],
        "administration.md",
        "stores, predicts and shows chest X-rays of clinics",
    ),
}


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("end", choices=sorted(ENDS))
    given.add_argument("--out", type=Path, default=ROOT / "build" / "packages")
    given.add_argument("--tree", type=Path, default=ROOT, help="the source tree")
    given.add_argument("--borrow", type=Path, help="for tests: use the packages of this folder and put none in")
    options = given.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(build(options.end, options.tree.resolve(), options.out.resolve(), options.borrow))


def build(end: str, tree: Path, out: Path, borrow: Path | None = None) -> Path:
    """The package's path. tree: with pyproject.toml and the lock. borrow: a site-packages folder, for tests."""
    name = f"thinwire-{end}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / name
        environment = root / "opt" / name
        run([PYTHON, "-m", "venv", "--without-pip", environment])
        _install(tree, ENDS[end][0], environment, borrow)
        _relocate(environment, f"/opt/{name}")
        _place(tree, end, root)
        return _pack(tree, end, root, out, "none" if borrow else "zstd")


def _install(tree: Path, lock: str, environment: Path, borrow: Path | None) -> None:
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "--quiet", "--no-deps"]
    if borrow is None:
        run([*pip, "--require-hashes", "-r", tree / "requirements" / lock])
        if lock == "hub.lock":
            run([*pip, "-r", tree / "requirements" / "torch.txt"])
    else:
        (site,) = (environment / "lib").glob("python*/site-packages")
        (site / "borrowed.pth").write_text(f"{borrow}\n")
    # With the build requirements of this Python, which the lock of development pins.
    with tempfile.TemporaryDirectory() as wheels:
        wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", wheels]
        run([*wheel, tree])
        run([*pip, "--no-index", *Path(wheels).glob("thinwire-*.whl")])


def _relocate(environment: Path, to: str) -> None:
    """Programs begin with the path of the environment's Python, which is another one when it is installed."""
    for path in (environment / "bin").iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        first, newline, rest = path.read_bytes().partition(b"\n")
        if path.name.lower().startswith("activate"):
            path.unlink()
        elif first.startswith(b"#!" + os.fsencode(environment)):
            path.write_bytes(first.replace(os.fsencode(environment), to.encode()) + newline + rest)
    config = environment / "pyvenv.cfg"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("command")]
    config.write_text("\n".join(lines) + "\n")


def _place(tree: Path, end: str, root: Path) -> None:
    """Units, users, settings, documents, and the program's name in /usr/bin."""
    name, (_, units, page, _) = f"thinwire-{end}", ENDS[end]
    files = {
        **{f"lib/systemd/system/{unit}": tree / "packaging/systemd" / unit for unit in units},
        f"usr/lib/sysusers.d/{name}.conf": tree / f"packaging/debian/{name}.sysusers",
        f"usr/lib/tmpfiles.d/{name}.conf": tree / f"packaging/debian/{name}.tmpfiles",
        f"etc/default/{name}": tree / f"packaging/debian/{name}.default",
        f"usr/share/doc/{name}/{page}": tree / "docs" / page,
        f"usr/share/doc/{name}/copyright": tree / "LICENSE",
    }
    for target, source in files.items():
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / target)
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin" / name).symlink_to(f"/opt/{name}/bin/{name}")


def _pack(tree: Path, end: str, root: Path, out: Path, compression: str) -> Path:
    name, (_, units, _, words) = f"thinwire-{end}", ENDS[end]
    version = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["version"]
    python = subprocess.check_output(
        [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
    ).strip()
    machine = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    control = root / "DEBIAN"
    control.mkdir()
    size = sum(path.stat().st_size for path in files) // 1024
    (control / "control").write_text(
        dedent(
            f"""\
            Package: {name}
            Version: {version}
            Architecture: {machine}
            Maintainer: thinwire maintainers
            Installed-Size: {size}
            Depends: python{python}, libpython{python}-stdlib, systemd
            Section: science
            Priority: optional
            Description: thinwire, which {words}
             Chest X-rays over thin links: a clinic sends a graph of a radiograph first,
             a hub predicts from it, and the study follows.
            """
        )
    )
    (control / "conffiles").write_text(f"/etc/default/{name}\n")
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}" for path in files)
    (control / "md5sums").write_text("\n".join(sums) + "\n")
    patterns = " ".join(f"'{unit.replace('@.', '@*.')}'" for unit in units)
    for script in ("postinst", "prerm", "postrm"):
        text = (tree / "packaging/debian" / script).read_text().replace("@PACKAGE@", name).replace("@UNITS@", patterns)
        (control / script).write_text(text)
        (control / script).chmod(0o755)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    package = out / f"{name}_{version}_{machine}.deb"
    run(["dpkg-deb", "--root-owner-group", "--build", f"-Z{compression}", root, package])
    return package


def run(command: list[object]) -> None:
    subprocess.run([str(each) for each in command], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
