"""A fake `go` for tests: it records its commands and "builds" programs that are shell scripts."""

from pathlib import Path

FAKE_GO = """\
#!/bin/sh
# A fake Go. $FAKE/log gets a line for each command; $FAKE/mode decides how a build ends.
echo "$PWD $*" >> "$FAKE/log"
case "$1 $2" in
"env GOVERSION") cat "$FAKE/version" ;;
"list -m")
    case "$*" in
    *@v1.99.0) echo "go: k8s.io/kubernetes@v1.99.0: invalid version: unknown revision v1.99.0" >&2; exit 1 ;;
    *) echo "$FAKE/upstream.mod" ;;
    esac ;;
"mod tidy") echo "sums of a derived graph" > go.sum ;;
"build -v")
    while [ "$1" != -o ]; do shift; done
    echo "#!/bin/sh" > "$2/kube-apiserver"; chmod +x "$2/kube-apiserver"
    case "$(cat "$FAKE/mode")" in
    fails) echo k8s.io/some/package >&2; echo "main.go:1:2: undefined: nonsense" >&2; exit 1 ;;
    hangs) echo $$ > "$FAKE/pid"; exec sleep 60 ;;
    slow) sleep 0.5 ;;
    partial) exit 0 ;;
    esac
    case "$PWD" in
    */node-*) names="kubelet kube-proxy kube-scheduler" ;;
    *) names="server kube-controller-manager kubectl" ;;
    esac
    for name in $names; do
        cp "$2/kube-apiserver" "$2/$name"
    done ;;
esac
"""
UPSTREAM = """\
module k8s.io/kubernetes
require (
\tgo.etcd.io/etcd/client/v3 v3.6.4
\tk8s.io/api v0.0.0
)
replace (
\tk8s.io/api => ./staging/src/k8s.io/api
\tk8s.io/client-go => ./staging/src/k8s.io/client-go
)
"""


class FakeGo:
    """Install the fake `go` in a folder, set its version and mode, and read its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "bin" / "go"
        self.program.parent.mkdir(parents=True)
        self.program.write_text(FAKE_GO)
        self.program.chmod(0o755)
        (folder / "upstream.mod").write_text(UPSTREAM)
        self.set("version", "go1.26.8")
        self.set("mode", "works")

    def set(self, name: str, value: str) -> None:
        (self.folder / name).write_text(value)

    def list_commands(self, start: str) -> list[str]:
        """Return the recorded lines ("folder arguments") whose arguments begin with `start`."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.split(" ", 1)[1].startswith(start)]
