"""Start a tool that is one file: unpack the parts for this Python and this machine once, and run it.

It is packed as `__main__.py` and imports only the standard library. Its syntax is that of old versions of Python, so
that these print the error message, too.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile

INDEX = "contents.json"
LAUNCHER = "tools.cli.common.launch"


def run():  # noqa: RET503 -- execve does not return
    # type: () -> int
    """Run the tool. Return its exit code. If possible, this process becomes the tool."""
    archive = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 -- older versions of Python
    with zipfile.ZipFile(archive) as packed:
        contents = json.loads(packed.read(INDEX).decode())
        version = "{}.{}".format(sys.version_info[0], sys.version_info[1])  # noqa: UP032
        here = "-".join((version, platform.machine()))
        if sys.platform != "linux" or platform.python_implementation() != "CPython" or here not in contents["wheels"]:
            known = ", ".join(sorted(contents["wheels"]))
            sys.stderr.write("{}: needs CPython on Linux ({}); this is {}\n".format(contents["name"], known, here))
            return 2
        folder = os.path.join(_cache(), "{}-{}-{}".format(contents["name"], contents["id"], here))  # noqa: PTH118
        try:
            if not os.path.isdir(folder):  # noqa: PTH112
                _unpack(packed, contents["wheels"][here], folder)
        except OSError:
            # The cache cannot be written: run from a temporary folder.
            with tempfile.TemporaryDirectory(prefix="akv-tool-") as scratch:
                folder = os.path.join(scratch, "unpacked")  # noqa: PTH118
                _unpack(packed, contents["wheels"][here], folder)
                return subprocess.call(_command(contents["module"]), env=_environment(folder))
    os.execve(sys.executable, _command(contents["module"]), _environment(folder))  # noqa: S606


def _cache():
    # type: () -> str
    """Return the folder of unpacked tools."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return os.path.join(base, "akv-secret-store")  # noqa: PTH118


def _command(module):
    # type: (str) -> list[str]
    return [sys.executable, "-P", "-s", "-m", LAUNCHER, module, *sys.argv[1:]]


def _environment(folder):
    # type: (str) -> dict[str, str]
    places = [os.path.join(folder, name) for name in ("app", "site")]  # noqa: PTH118
    return dict(os.environ, PYTHONPATH=os.pathsep.join(places))


def _unpack(packed, wheels, folder):
    # type: (zipfile.ZipFile, list[str], str) -> None
    """Unpack the application and its wheels. The folder appears completely or not at all."""
    parent = os.path.dirname(folder)  # noqa: PTH120
    if not os.path.isdir(parent):  # noqa: PTH112
        os.makedirs(parent, 0o700)  # noqa: PTH103
    fresh = tempfile.mkdtemp(prefix=".unpacking-", dir=parent)
    try:
        app = [name for name in packed.namelist() if name.startswith("app/")]
        packed.extractall(fresh, app)
        site = os.path.join(fresh, "site")  # noqa: PTH118
        for wheel in wheels:
            with packed.open("wheels/" + wheel) as stream, zipfile.ZipFile(stream) as files:
                files.extractall(site)
        for name in os.listdir(site):  # noqa: PTH208
            scripts = os.path.join(site, name, "scripts")  # noqa: PTH118
            if name.endswith(".data") and os.path.isdir(scripts):  # noqa: PTH112
                programs = os.path.join(fresh, "app", "bin")  # noqa: PTH118
                shutil.move(scripts, programs)
                for program in os.listdir(programs):  # noqa: PTH208
                    os.chmod(os.path.join(programs, program), 0o755)  # noqa: PTH101, PTH118, S103
        try:
            os.rename(fresh, folder)  # noqa: PTH104
        except OSError:
            if not os.path.isdir(folder):  # noqa: PTH112
                raise  # else another process was faster
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(run())
